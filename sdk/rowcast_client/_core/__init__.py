"""The protocol without I/O: times and frames go in, wants come out.

Nothing in this package opens a socket, reads a clock or awaits. ``connection`` is the whole conversation,
``join`` one channel of it; the asyncio shell in ``client`` does what they want.
"""
