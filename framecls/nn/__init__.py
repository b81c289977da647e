"""Networks: the lecture's self-attention, encoders built on it, pooling and heads. No I/O, no globals."""
