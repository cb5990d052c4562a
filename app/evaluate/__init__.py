"""The Evaluate and Runs tabs: stored reports, checkpoints and training curves, read from listed folders alone."""
