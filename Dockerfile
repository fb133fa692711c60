# The measured image in its smallest form: one static choice of inputs, one binary, no shell script in between.
# Both base images are named by digest on the command line and have no default, so nobody builds from a moving tag by accident:
#   docker build --build-arg RUST_IMAGE=rust@sha256:… --build-arg BASE_IMAGE=debian@sha256:… -t synod .
# RUST_IMAGE: Rust 1.95 and a C compiler. BASE_IMAGE: the same glibc or a newer one. Not yet here (Container issue):
# a bit-for-bit rebuild that an auditor can repeat, the `dist` profile, attestation of the build.
ARG RUST_IMAGE
ARG BASE_IMAGE

FROM ${RUST_IMAGE} AS build
ARG RUST_IMAGE
ARG BASE_IMAGE
RUN case "$RUST_IMAGE" in *@sha256:*) ;; *) echo "RUST_IMAGE: expected name@sha256:digest, found '$RUST_IMAGE'; give --build-arg RUST_IMAGE" >&2; exit 1 ;; esac
RUN case "$BASE_IMAGE" in *@sha256:*) ;; *) echo "BASE_IMAGE: expected name@sha256:digest, found '$BASE_IMAGE'; give --build-arg BASE_IMAGE" >&2; exit 1 ;; esac
WORKDIR /build
COPY . .
RUN cargo build --release --locked --no-default-features --bin synod

FROM ${BASE_IMAGE}
COPY --from=build /build/target/release/synod /synod
ENTRYPOINT ["/synod", "node"]
