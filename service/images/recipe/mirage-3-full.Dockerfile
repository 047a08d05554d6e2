FROM docker.io/ocaml/opam:ubuntu-20.04-ocaml-4.11 AS build
USER 1000:1000
ENV OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes DUNE_CACHE=enabled DUNE_CACHE_STORAGE_MODE=copy
RUN mkdir -p /home/opam/.cache /home/opam/.opam/download-cache /home/opam/repo/src
RUN sudo apt-get update && sudo apt-get install -y m4 pkg-config
RUN cd /home/opam/opam-repository && git fetch --depth 1 origin 4dd2620bcc821418bae53669a6c6163964c090a2 && git reset --hard 4dd2620bcc821418bae53669a6c6163964c090a2 && opam update
WORKDIR /home/opam/repo/src
RUN --mount=type=cache,id=albatross-opam-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.opam/download-cache,uid=1000,gid=1000 --mount=type=cache,id=albatross-build-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.cache,uid=1000,gid=1000 opam depext -ui 'mirage<4.0.0' ocaml-freestanding
COPY --chown=1000:1000 src/config.ml /home/opam/repo/src/config.ml
COPY --chown=1000:1000 web.opam ./
RUN opam pin add -n web .
RUN --mount=type=cache,id=albatross-opam-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.opam/download-cache,uid=1000,gid=1000 --mount=type=cache,id=albatross-build-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.cache,uid=1000,gid=1000 opam exec -- mirage configure -f config.ml -t spt '--kv_ro=crunch' '--hello=it'\''s a "$name"'
RUN --mount=type=cache,id=albatross-opam-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.opam/download-cache,uid=1000,gid=1000 --mount=type=cache,id=albatross-build-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.cache,uid=1000,gid=1000 opam exec -- make depends
COPY --chown=1000:1000 . /home/opam/repo
RUN --mount=type=cache,id=albatross-opam-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.opam/download-cache,uid=1000,gid=1000 --mount=type=cache,id=albatross-build-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.cache,uid=1000,gid=1000 opam exec -- mirage configure -f config.ml -t spt '--kv_ro=crunch' '--hello=it'\''s a "$name"'
RUN --mount=type=cache,id=albatross-opam-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.opam/download-cache,uid=1000,gid=1000 --mount=type=cache,id=albatross-build-f0ba52b6cc0c0ef66b24493d97100079,target=/home/opam/.cache,uid=1000,gid=1000 opam exec -- mirage build
RUN set -- ./*.spt; if test $# -eq 1 && test -f "$1"; then cp "$1" /home/opam/unikernel; else echo "the build made not one unikernel but: $*" >&2; exit 1; fi
FROM scratch
COPY --from=build /home/opam/unikernel /out/web.spt
