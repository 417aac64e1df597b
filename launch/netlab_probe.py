"""Measures one link of a netlab: netlab_probe.py FROM_NAMESPACE TO_NAMESPACE TO_ADDRESS RATE_BITS.

Two figures, since a link may look right in one and wrong in the other: the rate of a stream of a second
or so, and that of a single 1 MB message on a connection that was idle, whose time starts at the first
byte sent and ends when the receiver has the last one. Ends with 1 where the stream is much too slow.
"""

import socket
import subprocess
import sys
import time

PORT = 47001
COLD_BYTES = 1 << 20
LEAST_SHARE = 0.8  # of the nominal rate that a stream must reach
ONE_CORE = 5e9  # bits a second; a slower machine cannot be told from a wrong link above it


def receive(connection: socket.socket, count: int) -> None:
    """Reads exactly `count` bytes and answers with one."""
    buffer = memoryview(bytearray(1 << 20))
    while count > 0:
        got = connection.recv_into(buffer, min(count, len(buffer)))
        if got == 0:
            raise ConnectionError(f"the sender left with {count} bytes to go")
        count -= got
    connection.sendall(b".")


def serve() -> None:
    """The receiving end: for each size announced, reads that many bytes."""
    with socket.create_server(("", PORT)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        with connection:
            while announced := connection.recv(16, socket.MSG_WAITALL):
                receive(connection, int(announced))


def timed_send(connection: socket.socket, count: int) -> float:
    """Seconds from the first byte sent to the answer that all have arrived."""
    chunk = bytes(1 << 20)
    connection.sendall(f"{count:016d}".encode())
    start = time.perf_counter()
    left = count
    while left > 0:
        connection.sendall(chunk[: min(left, len(chunk))])
        left -= min(left, len(chunk))
    connection.recv(1)
    return time.perf_counter() - start


def measure(address: str, rate: int) -> int:
    """The sending end: prints both figures; the exit status says whether the stream is as it should be."""
    with socket.create_connection((address, PORT), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(0.2)
        cold = COLD_BYTES * 8 / timed_send(connection, COLD_BYTES)
        stream_bytes = max(1 << 20, rate // 8)
        stream = stream_bytes * 8 / timed_send(connection, stream_bytes)
    print(
        f"netlab: link {rate / 1e9:g} Gb/s; measured: stream {stream / 1e9:.3f} Gb/s "
        f"({stream / rate:.2f} of nominal), one cold 1 MB message {cold / 1e9:.3f} Gb/s "
        f"({cold / rate:.2f})",
        flush=True,
    )
    if stream >= LEAST_SHARE * rate:
        return 0
    print(
        f"netlab: {'warning: ' if rate > ONE_CORE else ''}the link does not reach {LEAST_SHARE} of its rate: "
        "times over it would be this machine's. Stop what else runs here, or take a lower --rate",
        file=sys.stderr,
    )
    return 0 if rate > ONE_CORE else 1


def main() -> int:
    """Runs the two ends in their namespaces."""
    if sys.argv[1] == "serve":
        serve()
        return 0
    if sys.argv[1] == "measure":
        return measure(sys.argv[2], int(sys.argv[3]))
    source, target, address, rate = sys.argv[1:5]
    inside = ["ip", "netns", "exec"]
    me = [sys.executable, __file__]
    server = subprocess.Popen(
        [*inside, target, *me, "serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        server.stdout.readline()
        sender = [*inside, source, *me, "measure", address, rate]
        return subprocess.run(sender, check=False, timeout=120).returncode
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
