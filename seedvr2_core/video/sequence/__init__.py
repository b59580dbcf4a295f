"""Image sequences as sources: their files, the archive they travel in, and what libav sees."""
