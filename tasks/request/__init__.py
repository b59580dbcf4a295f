"""The fields of a request: what each may be, what older callers may write, what is refused."""
