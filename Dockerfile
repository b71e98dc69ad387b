# syntax=docker/dockerfile:1
# The relay's image: one binary, what it links to, certificates, and who it runs as. No shell, no
# package manager, nothing to write to.
#
#   docker build --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" --tag outboxd .

FROM rust:1.95.0-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build

# The dependencies alone, in a layer of their own: librdkafka and OpenSSL take minutes, and are built again
# only when Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/relay \
    && touch src/lib.rs \
    && for file in build.rs src/main.rs tests/it/main.rs benches/relay/main.rs; do \
         echo 'fn main() {}' > "$file"; \
       done \
    && cargo build --profile dist --locked --bin outboxd

COPY build.rs ./
COPY migrations migrations
COPY src src
# There is no .git here to ask.
ARG COMMIT=""
# Cargo goes by times, and the files may be older than the layer above.
RUN touch build.rs src/lib.rs src/main.rs \
    && OUTBOXD_COMMIT="$COMMIT" cargo build --profile dist --locked --bin outboxd \
    && install -D target/dist/outboxd /usr/local/bin/outboxd

# The root of the image: libc and its like are those that the binary was linked to.
RUN mkdir -p /image/etc \
    && ldd /usr/local/bin/outboxd | grep -o '/[^ ]*' \
       | xargs cp -L --parents -t /image /usr/local/bin/outboxd /etc/ssl/certs/ca-certificates.crt \
    && echo 'outboxd:x:65532:65532:outboxd:/:/sbin/nologin' > /image/etc/passwd \
    && echo 'outboxd:x:65532:' > /image/etc/group \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf

FROM scratch
ARG COMMIT=""
LABEL org.opencontainers.image.title="outboxd" \
      org.opencontainers.image.description="Relays transactional-outbox events from PostgreSQL's WAL to Kafka" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$COMMIT" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.documentation="docs/OPERATING.md"
COPY --from=build /image /
USER 65532:65532
# Nothing can reach a container's loopback: set OUTBOXD__ADMIN__LISTEN=0.0.0.0:9464 where probes or
# Prometheus come from outside.
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/outboxd", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/outboxd"]
CMD ["run"]
