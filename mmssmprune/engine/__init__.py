"""What the command line tools share: configs, checked checkpoints, the Runner, one-sentence errors."""
