"""Says in one sentence that `make audit` cannot ask for known vulnerabilities, where that is so.

    python requirements/reachable.py [ADDRESS]

The exit code is 0 if PyPI's service answers. Without this look pip-audit ends with a traceback
where no service can be reached, and it could be taken for a list of vulnerabilities.
"""

import sys

import httpx

SERVICE = "https://pypi.org/pypi/pip/json"
"""Where pip-audit asks; any package would do."""


def why_not(address: str) -> str:
    """Why the service does not answer; "" if it does."""
    try:
        answer = httpx.get(address, timeout=20.0, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    try:
        answer.json()["vulnerabilities"]
    except (ValueError, LookupError, TypeError):
        return f"HTTP {answer.status_code}, and no list of vulnerabilities"
    return ""


def main() -> None:
    """Exit with a sentence if the service does not answer."""
    address = sys.argv[1] if len(sys.argv) > 1 else SERVICE
    if why := why_not(address):
        sys.exit(
            f"nothing was audited: no vulnerability service answers at {address} ({why}); run it "
            "where PyPI can be reached"
        )


if __name__ == "__main__":
    main()
