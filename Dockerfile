# The relay's image: one binary, the libraries of libc that it needs, certificates. No shell.
FROM rust:1.95.0-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin outboxd && cp target/release/outboxd /usr/local/bin/
RUN mkdir /image \
    && ldd /usr/local/bin/outboxd | grep -o '/[^ ]*' \
       | xargs cp -L --parents -t /image /usr/local/bin/outboxd /etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /image /
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["/usr/local/bin/outboxd"]
CMD ["run"]
