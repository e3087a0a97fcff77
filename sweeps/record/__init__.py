"""Records a sweep in a tracking store, and reads from there."""
