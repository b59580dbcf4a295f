"""What a phase can take at once: the ladders that the memory plan goes down."""
