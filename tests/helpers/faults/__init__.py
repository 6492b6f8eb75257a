"""What goes wrong: bad servers, kills, failing system calls, full disks, unexpected files."""
