#!/usr/bin/env python3
"""stall_probe.py FILE: until SIGTERM, writes 4 KiB with fdatasync and sleeps 10 ms, and prints the longest
flush and the longest oversleep: how much of a stall is the machine's own."""
import os
import signal
import sys
import time

running = True


def stop(*_):
    global running
    running = False


signal.signal(signal.SIGTERM, stop)
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
flush = oversleep = 0.0
while running:
    begin = time.monotonic()
    os.pwrite(file, os.urandom(4096), 0)
    os.fdatasync(file)
    flushed = time.monotonic()
    time.sleep(0.01)
    flush = max(flush, flushed - begin)
    oversleep = max(oversleep, time.monotonic() - flushed - 0.01)
print(f"the machine alone: longest flush {flush * 1000:.1f} ms, longest oversleep "
      f"{oversleep * 1000:.1f} ms, load {os.getloadavg()[0]:.1f}")
