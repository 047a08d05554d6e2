FROM docker.io/ocaml/opam:debian-12-ocaml-4.14 AS build
USER 1000:1000
ENV OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes DUNE_CACHE=enabled DUNE_CACHE_STORAGE_MODE=copy
RUN mkdir -p /home/opam/.cache /home/opam/.opam/download-cache /home/opam/repo
RUN sudo apt-get update && sudo apt-get install -y m4 pkg-config
RUN if test -x /usr/bin/opam-2.1; then sudo ln -f /usr/bin/opam-2.1 /usr/bin/opam; fi
WORKDIR /home/opam/repo
RUN opam install 'mirage>=4.0.0' opam-monorepo ocaml-solo5
COPY --chown=1000:1000 config.ml /home/opam/repo/config.ml
RUN opam exec -- mirage configure -f config.ml -t hvt
RUN opam exec -- make depends
COPY --chown=1000:1000 . /home/opam/repo
RUN opam exec -- mirage configure -f config.ml -t hvt
RUN opam exec -- make build
RUN set -- dist/*.hvt; if test $# -eq 1 && test -f "$1"; then cp "$1" /home/opam/unikernel; else echo "the build made not one unikernel but: $*" >&2; exit 1; fi
FROM scratch
COPY --from=build /home/opam/unikernel /unikernel.hvt
