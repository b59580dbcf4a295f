"""The installation's object store (SEEDVR2_STORE): what lets a job go on where no disk is shared.

A worker makes a job in its own work directory, by the same rules as without a store, and keeps a
copy of each thing that is finished in objects:

    sources/<sha256>                          the source
    jobs/<job_key>/plan.json                  created once; who comes second obeys it
    jobs/<job_key>/lease.json                 which run works on the job (`lease`)
    jobs/<job_key>/segments/00000.json        sidecar, written last: without it there is no segment
    jobs/<job_key>/segments/00000.<sha256>.*  its packets and latents, which never change
    results/<job_key>.json                    what the run answered
    masters/<pixels_key>/                     what `keep_master` has left (`master_copy`)

Objects with a digest in their name have one content, and sidecars are created and not replaced. So
two runs that both believe to hold a job do each other no harm: they make the same bytes.
"""

from tasks.store.job_copy import JobCopy, copy_of
from tasks.store.keeper import Keeper, MasterKeeper
from tasks.store.lease import Lease

__all__ = ["JobCopy", "Keeper", "Lease", "MasterKeeper", "copy_of"]
