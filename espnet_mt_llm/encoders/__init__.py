"""Speech encoders behind one small interface."""
