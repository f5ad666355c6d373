"""TensorBoard: logged values and results as event files."""
