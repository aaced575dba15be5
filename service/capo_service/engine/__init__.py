"""Where critiques come from: one Protocol (`base`), and the engines that keep it."""
