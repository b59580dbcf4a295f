"""What is started. Every program of ours imports this package before it imports Prefect."""

from deployments.host.quiet import keep_prefect_quiet, set_prefect_logs

keep_prefect_quiet()
set_prefect_logs()
