"""Carries a source's other streams (audio, subtitles) into the mp4, each for itself.

`trial` reads them all once and tries each alone, `streams` decides how each is carried, `copier`
and `transcoder` do it. A stream that cannot be carried is named in a note; only the video can make
a job fail.
"""
