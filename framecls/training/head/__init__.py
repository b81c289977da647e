"""A head on an encoder that stays as it is: `framecls train` without a recipe, from some dozens of clips in minutes."""
