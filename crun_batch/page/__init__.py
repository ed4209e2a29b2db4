"""The local web page: rows, one row, a run as it goes. Reads the run; serves loopback; knows no command line."""
