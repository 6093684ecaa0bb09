# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# librdkafka is C and C++, built from source with its own zlib, and takes its TLS from OpenSSL.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config && rm -rf /var/lib/apt/lists/*
# The image's own toolchain: rust-toolchain.toml would have rustup fetch rustfmt and clippy.
ENV RUSTUP_TOOLCHAIN=1.95
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --features kafka-tls --bin seckill && cp target/dist/seckill /seckill

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin seckill
COPY --from=build /seckill /usr/local/bin/seckill
USER 10001
# Shoppers; operators, health and metrics.
EXPOSE 8080 9090
ENTRYPOINT ["seckill"]
CMD ["serve"]
