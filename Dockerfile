FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
# With .git: the binary is stamped with the version and the commit it was built
# from, so that `sessapi version` needs no build argument that may be wrong.
COPY . .
ARG TARGETOS TARGETARCH
ARG TAGS
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH make build && mv bin/sessapi /bin/

# The binary is all there is: no shell, no libraries, nothing to patch but it.
FROM scratch
# A user who cannot read the binary cannot read its process's memory, from its
# first instruction on.
COPY --from=build --chmod=0711 /bin/sessapi /sessapi
COPY LICENSE THIRD_PARTY_NOTICES /
LABEL org.opencontainers.image.title="sessapi" \
      org.opencontainers.image.description="TLS sessions and session ticket keys for a fleet of servers" \
      org.opencontainers.image.source="https://github.com/sessapi/sessapi" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
# The default address is the loopback, which in a container nobody reaches. This
# one needs TLS with credentials, or SESSAPI_INSECURE_LISTEN.
ENV SESSAPI_LISTEN=0.0.0.0:8440
EXPOSE 8440
HEALTHCHECK CMD ["/sessapi", "healthcheck"]
ENTRYPOINT ["/sessapi"]
CMD ["serve"]
