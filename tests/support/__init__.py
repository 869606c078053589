"""What the tests stand on: a server, a clock, named sessions, crashes, the catalogue."""
