"""A real SMTP server (aiosmtpd) that tests tell how to behave.

It listens on a free loopback port and writes lines of JSON: first its port, then each connection and
each mail it took. It ends when its standard input does. The first part of a recipient's address says
what it answers:

    550-5.1.1@example.com        refuses the recipient with `550 5.1.1`
    data-554-5.7.1@example.com   takes the recipient, refuses the message
    hang@example.com             never answers about the recipient
    anything else                takes the mail
"""

import argparse
import asyncio
import email
import email.policy
import json
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

REFUSAL = re.compile(r"(\d{3})(?:-(\d\.\d+\.\d+))?@")


def tell(**facts):
    print(json.dumps(facts), flush=True)


def refusal(text, address):
    found = REFUSAL.match(text)
    if not found:
        return None
    code, enhanced = found.groups()
    words = f"{enhanced} " if enhanced else ""
    # As servers do: the answer quotes the address.
    return f"{code} {words}<{address}> is not welcome"


def text_of(part):
    # How many line breaks follow the text is nobody's concern.
    return part.get_content().replace("\r\n", "\n").rstrip("\n")


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("hang@"):
            await asyncio.Event().wait()
        refused = refusal(address, address)
        if refused:
            return refused
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server, session, envelope):
        address = envelope.rcpt_tos[0]
        if address.startswith("data-"):
            return refusal(address.removeprefix("data-"), address)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {kind: mail.get_body((kind,)) for kind in ("plain", "html")}
        tell(
            mail_from=envelope.mail_from,
            rcpt_tos=envelope.rcpt_tos,
            headers={name.lower(): str(value) for name, value in mail.items()},
            content_type=mail.get_content_type(),
            parts={kind: text_of(part) for kind, part in parts.items() if part},
            defects=[str(defect) for defect in mail.defects],
            over_tls=server.transport.get_extra_info("sslcontext") is not None,
            login=session.auth_data.decode() if session.auth_data else None,
            mechanism=getattr(session, "mechanism", None),
        )
        return "250 2.0.0 queued as 4711"


class Server(SMTP):
    def connection_made(self, transport):
        # Once more after STARTTLS, over the same connection.
        if self.session is None:
            tell(connection=True)
        super().connection_made(transport)


def tls_context(options):
    if not options.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    return context


def authenticator(options):
    def check(server, session, envelope, mechanism, data):
        session.mechanism = mechanism
        given = f"{data.login.decode()}:{data.password.decode()}"
        if given != options.login:
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=data.login)

    return check


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--security", choices=["none", "starttls", "tls"], default="none")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--login", help="NAME:PASSWORD that must be given")
    parser.add_argument("--without", action="append", default=[], help="an AUTH mechanism")
    options = parser.parse_args()
    context = tls_context(options)

    def protocol():
        starttls = options.security == "starttls"
        return Server(
            Handler(),
            hostname="localhost",
            enable_SMTPUTF8=False,
            tls_context=context if starttls else None,
            require_starttls=starttls,
            auth_required=options.login is not None,
            auth_require_tls=False,
            auth_exclude_mechanism=options.without,
            authenticator=authenticator(options),
        )

    loop = asyncio.get_running_loop()
    implicit = context if options.security == "tls" else None
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=implicit)
    tell(port=server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
