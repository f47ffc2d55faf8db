"""What a laboratory measures in an image of rock: arrays in, numbers out; numpy and scipy only."""
