import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.http_tools import Reply, answering, as_json, redirect
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.tools import http_guard
from toolformer_core.tools.http_guard import Answer, GuardedClient, check_url, is_public


def guarded(*, allow_private=True, timeout_seconds=5.0, max_bytes=10_000):
    return GuardedClient(
        allow_private=allow_private, timeout_seconds=timeout_seconds, max_bytes=max_bytes
    )


def get(client, url, headers=None, **fetch):
    return client.fetch(httpx.Request("GET", url, headers=headers), **fetch)


def resolving(monkeypatch, *answers):
    """Names resolve to the answers, one per look-up; addresses to themselves."""
    real, left = socket.getaddrinfo, list(answers)

    def getaddrinfo(host, *args, **kwargs):
        if not host.endswith(".test"):
            return real(host, *args, **kwargs)
        return [entry for address in left.pop(0) for entry in real(address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return left


def test_fetch_gives_content_and_type():
    with answering(as_json({"a": 1})) as server:
        answer = get(guarded(), server.url)
    assert answer == Answer("application/json", b'{"a": 1}')
    assert answer.is_json


def test_fetch_asks_for_no_compression():
    with answering(Reply(b"x")) as server:
        get(guarded(), server.url, {"Accept-Encoding": "br"})
    assert server.received[0].headers["accept-encoding"] == "identity"


def test_fetch_connection_is_used_again():
    with answering(Reply(b"x")) as server:
        client = guarded()
        for _ in range(3):
            get(client, server.url)
        assert len(client._pool.connections) == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127.1",
        "0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "10.0.0.1",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "\uff11\uff12\uff17.0.0.1",
    ],
)
def test_fetch_private_address_in_any_form_is_refused(host):
    try:
        url = httpx.URL(f"http://{host}:9/")
    except httpx.InvalidURL:
        url = None
    if url is None:
        with pytest.raises(ConfigError):
            check_url(f"http://{host}:9/", "url")
    else:
        with pytest.raises(ConfigError, match="not public; set allow_private=true"):
            get(guarded(allow_private=False), url)


def test_fetch_private_server_is_never_connected_to():
    with answering(Reply(b"x")) as server:
        with pytest.raises(ConfigError):
            get(guarded(allow_private=False), server.url)
        assert not server.received


def test_fetch_name_with_a_public_and_a_private_address_is_refused(monkeypatch):
    resolving(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(ConfigError, match=r"api\.test has the address 127\.0\.0\.1"):
        get(guarded(allow_private=False), "http://api.test/")


def test_fetch_connects_to_the_address_that_was_checked(monkeypatch):
    left = resolving(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    with answering(Reply(b"x")) as server:
        get(guarded(), f"http://api.test:{server.port}/")
    assert len(left) == 1
    assert server.received[0].headers["host"] == f"api.test:{server.port}"


def test_fetch_second_address_is_tried_if_the_first_refuses(monkeypatch):
    resolving(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    with answering(Reply(b"x")) as server:
        assert get(guarded(), f"http://api.test:{server.port}/").content == b"x"


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1"),
        *("192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1"),
        *("::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:a00:1::"),
        *("2001:0:7f00:1::", "2001:db8::1", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "100::1"),
    ],
)
def test_is_public_special_address_is_not(address):
    assert ipaddress.ip_address(address)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_is_public_address_of_the_internet_is(address):
    assert is_public(address)


def test_fetch_unknown_name_is_an_outage():
    with pytest.raises(TransientToolError, match="cannot look up the name"):
        get(guarded(), "http://nowhere.invalid/")


def test_fetch_label_that_is_too_long_is_an_outage():
    with pytest.raises(TransientToolError, match="cannot look up the name"):
        get(guarded(), f"http://{'a' * 70}.test/")


def test_fetch_refused_connection_is_an_outage():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        with pytest.raises(TransientToolError, match="ConnectError"):
            get(guarded(), f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_fetch_server_that_hangs_up_is_an_outage():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(TransientToolError, match="disconnected"):
            get(guarded(), f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()


def test_fetch_no_connection_within_half_of_the_time_is_an_outage():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # a full queue answers no one
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(TransientToolError, match="ConnectTimeout"):
            get(guarded(timeout_seconds=0.2), f"http://127.0.0.1:{address[1]}/")
        for one in waiting:
            one.close()


def test_fetch_slow_look_up_of_the_name_is_an_outage(monkeypatch):
    resolving(monkeypatch, ["127.0.0.1"])
    look_up = socket.getaddrinfo

    def slow(*args, **kwargs):
        time.sleep(0.15)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(TransientToolError, match="ConnectTimeout"):
        get(guarded(timeout_seconds=0.2), "http://api.test/")


def test_fetch_body_that_drips_ends_at_the_deadline():
    with (
        answering(Reply(b"x" * 200, drip=0.05)) as server,
        pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"),
    ):
        get(guarded(timeout_seconds=0.3), server.url)


def test_fetch_headers_that_drip_end_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                try:
                    for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200:
                        connection.send(bytes([byte]))
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(TimeoutError):
            get(guarded(timeout_seconds=0.3), f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()


def test_fetch_threads_get_their_own_answers():
    with answering(lambda request: Reply(request.path.encode())) as server:
        client = guarded()
        with ThreadPoolExecutor(8) as threads:
            urls = [f"{server.url}/{k}" for k in range(40)]
            answers = list(threads.map(lambda url: get(client, url).text(), urls))
    assert answers == [f"/{k}" for k in range(40)]


def test_fetch_redirects_share_one_deadline():
    def answer(request):
        time.sleep(0.15)
        return redirect("/again")

    with answering(answer) as server, pytest.raises(TimeoutError):
        get(guarded(timeout_seconds=0.3), server.url)


@pytest.mark.parametrize("size", [10_001, 10_000_000])
def test_fetch_long_body_is_refused(size):
    with (
        answering(Reply(b"x" * size)) as server,
        pytest.raises(ToolError, match="more than 10000 bytes"),
    ):
        get(guarded(), server.url)


def test_fetch_body_of_just_the_size_is_given():
    with answering(Reply(b"x" * 10_000)) as server:
        assert len(get(guarded(), server.url).content) == 10_000


def test_fetch_compressed_unasked_is_decompressed():
    reply = Reply(gzip.compress(b"text"), headers={"content-encoding": "gzip"})
    with answering(reply) as server:
        assert get(guarded(), server.url).content == b"text"


def test_fetch_gzip_bomb_is_refused_without_being_unpacked(monkeypatch):
    unpacked = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits):
            self.real = real(wbits=wbits)

        def decompress(self, *args):
            unpacked.append(self.real.decompress(*args))
            return unpacked[-1]

    monkeypatch.setattr(http_guard.zlib, "decompressobj", Counting)
    bomb = gzip.compress(b"\0" * 9_000_000)
    assert len(bomb) < 10_000
    with (
        answering(Reply(bomb, headers={"content-encoding": "gzip"})) as server,
        pytest.raises(ToolError, match="more than 10000 bytes"),
    ):
        get(guarded(), server.url)
    assert [len(content) for content in unpacked] == [10_001]


@pytest.mark.parametrize(("coding", "said"), [("br", "content-encoding br"), ("gzip", "not gzip")])
def test_fetch_other_compression_is_refused(coding, said):
    reply = Reply(b"????", headers={"content-encoding": coding})
    with answering(reply) as server, pytest.raises(ToolError, match=said):
        get(guarded(), server.url)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_fetch_redirect_on_the_server_is_followed(status):
    def answer(request):
        return redirect("/there?x=1", status) if request.path == "/" else Reply(b"there")

    with answering(answer) as server:
        request = httpx.Request("POST", server.url, json={"a": 1}, headers={"X-Key": "k"})
        assert guarded().fetch(request).content == b"there"
    assert server.received[1].path == "/there?x=1"
    assert server.received[1].method == "POST"
    assert server.received[1].body == b'{"a":1}'
    assert server.received[1].headers["x-key"] == "k"


def test_fetch_redirect_in_a_circle_ends():
    with (
        answering(redirect("/")) as server,
        pytest.raises(ToolError, match="more than 3 redirects"),
    ):
        get(guarded(), server.url)
    assert len(server.received) == 4


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//169.254.169.254/",
        "http://localhost:{port}/",
        "http://127.0.0.1:1/",
        "https://127.0.0.1:{port}/",
        "ftp://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "http://127.0.0.1:{port}@evil.test/",
        "",
    ],
)
def test_fetch_redirect_to_another_server_is_not_followed(target):
    def answer(request):
        return redirect(target.format(port=server.port))

    with (
        answering(answer) as server,
        pytest.raises(ToolError, match=r"redirect to .* another server; not followed"),
    ):
        get(guarded(), server.url, {"X-Key": "k"})
    assert len(server.received) == 1


def test_fetch_redirect_to_another_server_is_named_without_secrets():
    with (
        answering(redirect("https://other.test/?key=hunter2")) as server,
        pytest.raises(ToolError, match=r"https://other\.test/\?key=\*\*\*"),
    ):
        get(guarded(), server.url, hide=lambda text: text.replace("hunter2", "***"))


def test_fetch_redirect_to_no_address_is_refused():
    with answering(redirect("http://[::1")) as server, pytest.raises(ToolError, match="no address"):
        get(guarded(), server.url)


def test_redirect_to_encryption_of_the_same_host_is_allowed():
    request = httpx.Request("GET", "http://api.test/a", headers={"X-Key": "k"})
    redirected = http_guard._redirected(request, "https://api.test/b", str)
    assert str(redirected.url) == "https://api.test/b"
    assert redirected.headers["x-key"] == "k"


def test_redirect_from_encryption_is_refused():
    request = httpx.Request("GET", "https://api.test/a")
    with pytest.raises(ToolError, match="another server"):
        http_guard._redirected(request, "http://api.test/a", str)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_fetch_status_of_bad_input_is_a_rejection_that_quotes_the_body(status):
    with (
        answering(Reply(b"no such\n city", status=status)) as server,
        pytest.raises(ToolInputRejected, match=f"status {status}: no such city"),
    ):
        get(guarded(), server.url)


@pytest.mark.parametrize("status", [303, 304, 403, 405, 500, 501])
def test_fetch_other_status_is_an_error(status):
    with answering(Reply(status=status)) as server, pytest.raises(ToolError) as caught:
        get(guarded(), server.url)
    assert type(caught.value) is ToolError


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_fetch_status_of_an_outage_is_one(status):
    with answering(Reply(status=status)) as server, pytest.raises(TransientToolError):
        get(guarded(), server.url)


def test_fetch_credentials_that_are_not_accepted_are_a_wrong_setting():
    with answering(Reply(status=401)) as server, pytest.raises(ConfigError, match="credentials"):
        get(guarded(), server.url)


def test_fetch_error_body_is_hidden_before_it_is_cut():
    body = b"x" * (http_guard.MAX_SHOWN_CHARS - 4) + b"hunter2"
    with answering(Reply(body, status=403)) as server, pytest.raises(ToolError) as caught:
        get(guarded(), server.url, hide=lambda text: text.replace("hunter2", "***"))
    assert "hunt" not in str(caught.value)


def test_fetch_proxies_of_the_environment_are_ignored(monkeypatch):
    with answering(Reply(b"direct")) as server, answering(Reply(b"proxy")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert get(guarded(), server.url).content == b"direct"
        assert not proxy.received


def test_fetch_cookies_are_not_kept():
    with answering(Reply(b"x", headers={"set-cookie": "seen=1"})) as server:
        client = guarded()
        get(client, server.url)
        get(client, server.url)
    assert "cookie" not in server.received[1].headers


def test_fetch_line_end_in_a_header_is_refused_without_being_shown():
    with answering(Reply(b"x")) as server, pytest.raises(ToolError, match="character") as caught:
        get(guarded(), server.url, {"X-Key": "hunter2\r\nX-Other: 1"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with key and self-signed certificate of api.test."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api.test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("api.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "api.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


@pytest.fixture
def encrypting(certificate, monkeypatch):
    """The server's side of TLS; the client trusts its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    http_guard._trusted.cache_clear()
    yield context
    http_guard._trusted.cache_clear()


def test_fetch_certificate_is_that_of_the_name_not_of_the_address(monkeypatch, encrypting):
    resolving(monkeypatch, ["127.0.0.1"])
    with answering(Reply(b"safe"), ssl_context=encrypting) as server:
        assert get(guarded(), f"https://api.test:{server.port}/").content == b"safe"


def test_fetch_certificate_of_another_name_is_refused(monkeypatch, encrypting):
    resolving(monkeypatch, ["127.0.0.1"])
    with (
        answering(Reply(b"safe"), ssl_context=encrypting) as server,
        pytest.raises(TransientToolError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        get(guarded(), f"https://other.test:{server.port}/")
    assert not server.received


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://api.test/", "http://", "http:///path", "http://[::1", "http://api.test:99999/"),
        *("http://user:pw@api.test/", "http://{host}/", "http://${env:HOST}/", "http://a b/", "/x"),
    ],
)
def test_check_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="tool X") as caught:
        check_url(url, "tool X")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b"caf\xc3\xa9", "text/plain", "caf\u00e9"),
        (b"caf\xe9", "text/plain; charset=ISO-8859-1", "caf\u00e9"),
        (b"{}", "application/geo+json", "{}"),
        (b"a: 1", "application/x-yaml", "a: 1"),
        (b"x", "", "x"),
        (b"\xef\xbb\xbf{}", "application/json", "{}"),
    ],
)
def test_answer_text_is_decoded(content, content_type, expected):
    assert Answer(content_type, content).text() == expected


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (b"\x89PNG\r\n", "image/png", r"binary \(image/png\)"),
        (b"text", "application/octet-stream", "binary"),
        (b"\xff\xfe\x00", "text/plain", "binary"),
        (b"\xff\xfe\x00", "", "binary"),
        (b"eJw=", "text/plain; charset=punycode", "charset punycode"),
    ],
)
def test_answer_binary_is_refused(content, content_type, said):
    with pytest.raises(ToolError, match=said):
        Answer(content_type, content).text()
