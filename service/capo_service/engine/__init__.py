"""What runs the judge: one Protocol (`base`) and the engines that implement it."""
