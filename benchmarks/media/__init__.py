"""What is found in video: cuts and fields, against what is known to be there."""
