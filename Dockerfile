# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# librdkafka is C and C++, built from source with its own zlib.
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
# The image's own toolchain: rust-toolchain.toml would have rustup fetch rustfmt and clippy.
ENV RUSTUP_TOOLCHAIN=1.95
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --bin seckill && cp target/dist/seckill /seckill

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin seckill
COPY --from=build /seckill /usr/local/bin/seckill
USER 10001
# Shoppers; operators, health and metrics.
EXPOSE 8080 9090
ENTRYPOINT ["seckill"]
CMD ["serve"]
