"""What `make dist` makes, and clean machines to install it on."""
