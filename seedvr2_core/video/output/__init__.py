"""What an output is: its codecs and containers, what encoders are told, its file, and the check.

`formats` is plain data that planning reads as well; nothing else here is of use without av.
"""
