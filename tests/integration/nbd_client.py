"""A small NBD client (fixed newstyle, simple replies), so that a test can know for each byte which
writes were acknowledged and flushed. Source: the NBD protocol document, doc/proto.md."""
import socket
import struct

OPT_GO, REP_ACK, REP_INFO = 7, 1, 3
CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES = 0, 1, 3, 4, 6


class Client:
    """One connection. One request at a time, but for start() and finish()."""

    def __init__(self, path, export):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        magic, option_magic, _ = struct.unpack(">8s8sH", self._receive(18))
        assert magic == b"NBDMAGIC" and option_magic == b"IHAVEOPT"
        name = export.encode()
        data = struct.pack(">L", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">L", 3))  # fixed newstyle, no zeroes
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">LL", OPT_GO, len(data)) + data)
        self.size = None
        while True:
            _, _, kind, length = struct.unpack(">QLLL", self._receive(20))
            reply = self._receive(length)
            if kind == REP_ACK:
                break
            if kind != REP_INFO:
                raise OSError(f"export {export} refused: {reply[:200]!r}")
            if struct.unpack(">H", reply[:2])[0] == 0:
                self.size = struct.unpack(">Q", reply[2:10])[0]
        self.handle = 0

    def _receive(self, length):
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise OSError("the server closed the connection")
            data += piece
        return bytes(data)

    def start(self, kind, offset, length, data=b""):
        """Sends a request without waiting for its reply; returns its handle."""
        self.handle += 1
        self.socket.sendall(struct.pack(">LHHQQL", 0x25609513, 0, kind, self.handle, offset, length)
                            + data)
        return self.handle

    def finish(self):
        """The next reply to a request other than a read: handle and error number (0: done)."""
        magic, code, handle = struct.unpack(">LLQ", self._receive(16))
        assert magic == 0x67446698
        return handle, code

    def _call(self, kind, offset, length, data=b""):
        sent = self.start(kind, offset, length, data)
        handle, code = self.finish()
        assert handle == sent
        if code:
            raise RuntimeError(f"NBD request {kind} at {offset}: error {code}")
        return self._receive(length) if kind == CMD_READ else b""

    def read(self, offset, length):
        return self._call(CMD_READ, offset, length)

    def write(self, offset, data):
        self._call(CMD_WRITE, offset, len(data), data)

    def flush(self):
        self._call(CMD_FLUSH, 0, 0)

    def trim(self, offset, length):
        self._call(CMD_TRIM, offset, length)

    def write_zeroes(self, offset, length):
        self._call(CMD_WRITE_ZEROES, offset, length)
