"""What changed in an account, told to every socket of it: one numbered log, one hub, two protocols."""
