"""The tasks of the flow `upscale`, in the order in which it calls them.

fetch      brings the source to this machine: downloads it, decodes an upload, or takes a local file
probe      reads every packet of the source in a child process, and finds its cuts
estimate   chooses engine and device, plans the job, predicts its time and sets its limits
infer      waits until one segment is restored; a child process makes all segments of the job
stitch     joins the segments into one file, with every other stream of the source
upload     puts the file into storage
verify     checks that the storage and the public address have what was uploaded
report     compares the result with its source, in a child process, and writes the job's report

Each is the module of its name (`infer` is in `inference`, `report` in `verify`). The packages hold
what they use.
"""
