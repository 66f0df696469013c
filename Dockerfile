# syntax=docker/dockerfile:1
# Hearth in a container that is used like Synapse's:
#
#   docker run --rm -v hearth:/data -e SYNAPSE_SERVER_NAME=my-example.com -e SYNAPSE_REPORT_STATS=no IMAGE generate
#   docker run -d -v hearth:/data -p 80:80 -p 443:443 -p 8448:8448 IMAGE
#
# The data folder of a Synapse container can be mounted as it is. What `generate` reads from the environment and what
# `run` starts is told in conf/docker-entrypoint.sh.

FROM rust:1.95-bookworm AS build
# zlib-ng is built by cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin hearth && cp target/release/hearth /hearth

FROM debian:bookworm-slim
# Root certificates for federation and ACME, curl for the health check, setpriv (in util-linux) is there.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl tzdata && rm -rf /var/lib/apt/lists/*
COPY --from=build /hearth /usr/local/bin/hearth
COPY conf/docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
RUN ln -s hearth /usr/local/bin/register_new_matrix_user && chmod 755 /usr/local/bin/docker-entrypoint.sh && mkdir /data
WORKDIR /data
VOLUME /data
EXPOSE 80/tcp 443/tcp 8008/tcp 8448/tcp
ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]
HEALTHCHECK --start-period=10s --interval=15s --timeout=5s \
    CMD curl -fsS "http://127.0.0.1:${SYNAPSE_HTTP_PORT:-8008}/health" || exit 1
