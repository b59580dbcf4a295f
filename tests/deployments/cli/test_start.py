"""How the installed script begins."""

import subprocess
import sys


def test_the_collector_works_again_once_the_command_runs() -> None:
    code = (
        "import gc\n"
        "from deployments.cli import __main__ as start\n"
        "import deployments.cli.app as app\n"
        "app.main = lambda: print(gc.isenabled())\n"
        "start.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_help_loads_neither_prefect_nor_the_gateways_client() -> None:
    code = (
        "import sys\n"
        "from deployments.cli.__main__ import main\n"
        "sys.argv = ['seedvr2', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "loaded = {'prefect', 'torch', 'deployments.gateway.client', 'tasks.storage.open'}\n"
        "print(sorted(loaded & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "upscale" in done.stdout
