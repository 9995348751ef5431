"""What a corpus will cost, reckoned from a smaller run or a measured device."""
