//! A base image for builds, as ocaml/opam's are: busybox, and an opam, a mirage and a make that are small scripts. What
//! they make is an image for the stand-in's guest, whose version tells all that the build was told.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use super::saved_image::{Layer, Tar, docker_legacy, tar_of};
use super::solo5_image::{Image, Target};

/// Bytes of a version.
const ROOM: usize = 600;

const SUDO: &str = "#!/bin/sh\necho \"sudo $*\"\nexec \"$@\"\n";

const APT_GET: &str = "#!/bin/sh\necho \"apt-get $*\"\n";

/// In the folder of the opam repository, of which no more than the commit is there.
const GIT: &str = r#"#!/bin/sh -e
case "$*" in
    "fetch --depth 1 origin "*) echo "$5" > fetched ;;
    "reset --hard "*) test "$3" = "$(cat fetched)"; echo "$3" > commit ;;
    *) echo "git $* is not known" >&2; exit 1 ;;
esac
"#;

/// What is installed stays in the image; a word in the cache tells whether it was there the last time.
const OPAM: &str = r#"#!/bin/sh -e
case "$1" in
    depext) test "$*" = "depext -ui mirage<4.0.0 ocaml-freestanding"; echo 3 > /home/opam/mirage ;;
    install) test "$*" = "install mirage>=4.0.0 opam-monorepo ocaml-solo5"; echo 4 > /home/opam/mirage ;;
    update) cp /home/opam/opam-repository/commit /home/opam/packages ;;
    exec) test "$2" = --; shift 2; exec "$@" ;;
    *) echo "opam $* is not known" >&2; exit 1 ;;
esac
"#;

/// Older images have it, and Mirage 4 cannot do with it.
const OPAM_2_0: &str = r#"#!/bin/sh -e
case "$1" in
    install) echo "opam 2.0 is too old" >&2; exit 1 ;;
    *) exec opam-2.1 "$@" ;;
esac
"#;

const MIRAGE: &str = r#"#!/bin/sh -e
case "$1" in
    configure)
        test "$2 $4" = "-f -t"
        file=$3 target=$5
        shift 5
        grep -q register "$file"
        printf '%s\n' "$file" "$target" "$*" > .mirage ;;
    build)
        test "$(cat /home/opam/mirage)" = 3
        exec unikernel . ;;
    *) echo "mirage $* is not known" >&2; exit 1 ;;
esac
"#;

const MAKE: &str = r#"#!/bin/sh -e
test -f .mirage
case "$1" in
    depends|depend) echo "$(cat /home/opam/mirage)" > /home/opam/depends ;;
    build)
        test "$(cat /home/opam/mirage)" = 4
        folder=$(dirname "$(head -n 1 .mirage)")
        mkdir -p "$folder/dist"
        exec unikernel "$folder/dist" ;;
    *) echo "make $* is not known" >&2; exit 1 ;;
esac
"#;

/// `unikernel FOLDER`, where `.mirage` is: the template with another version.
const UNIKERNEL: &str = r#"#!/bin/sh -e
{ read -r file; read -r target; IFS= read -r arguments || true; } < .mirage
code=$(dirname "$file")/unikernel.ml
if test -f "$code" && grep -q 'syntax error' "$code"; then
    echo "File \"$code\", line 1:"; echo "Error: Syntax error"; exit 2
fi
if test -f "$code" && grep -q 'endless' "$code"; then echo "this takes long"; sleep 7193; fi
text="mirage=$(cat /home/opam/depends) target=$target config=[$(tr '\n' ' ' < "$file")]"
text="$text code=[$(cat "$code" 2>/dev/null | tr '\n' ' ')] arguments=[$arguments]"
text="$text packages=$(cat /home/opam/packages 2>/dev/null || echo own) extra=$(cat /home/opam/extra 2>/dev/null || echo none)"
template=/usr/share/unikernel.$target
{
    head -c OFFSET "$template"
    printf '%s\n' "$text"
    head -c $((ROOM - 1 - ${#text})) /dev/zero
    tail -c +$((OFFSET + ROOM + 1)) "$template"
} > "$1/web.$target"
echo "made $1/web.$target: $text"
"#;

/// An archive for `docker load`, with the image under these names.
pub fn archive(names: &[&str]) -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox")).unwrap();
    let folder = |tar: Tar, name: &str, owner: u64| entry(tar, name, b'5', 0o755, owner, b"");
    let mut tar = Tar::new();
    for (name, owner) in [
        ("bin", 0),
        ("etc", 0),
        ("home", 0),
        ("home/opam", 1000),
        ("home/opam/opam-repository", 1000),
        ("usr", 0),
        ("usr/bin", 1000),
        ("usr/share", 0),
    ] {
        tar = folder(tar, name, owner);
    }
    tar = entry(tar, "tmp", b'5', 0o1777, 0, b"");
    tar = entry(tar, "bin/busybox", b'0', 0o755, 0, &busybox);
    for applet in [
        "sh", "test", "[", "cat", "cp", "dirname", "echo", "grep", "head", "ln", "ls", "mkdir", "printf", "rm",
        "sleep", "tail", "tr", "true",
    ] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar = tar.file("etc/passwd", "root:x:0:0::/:/bin/sh\nopam:x:1000:1000::/home/opam:/bin/sh\n");
    tar = tar.file("etc/group", "root:x:0:\nopam:x:1000:\n");
    let mut unikernel = UNIKERNEL.to_owned();
    for (target, ending) in [(Target::Hvt, "hvt"), (Target::Spt, "spt")] {
        let template = Image::new(target, &"@".repeat(ROOM)).net(&["service"]).build();
        let offset = template.windows(ROOM).position(|window| window.iter().all(|byte| *byte == b'@')).unwrap();
        unikernel = unikernel.replace("OFFSET", &offset.to_string()).replace("ROOM", &ROOM.to_string());
        tar = tar.file(&format!("usr/share/unikernel.{ending}"), template);
    }
    for (name, script) in [
        ("sudo", SUDO),
        ("apt-get", APT_GET),
        ("git", GIT),
        ("opam", OPAM_2_0),
        ("opam-2.1", OPAM),
        ("mirage", MIRAGE),
        ("make", MAKE),
        ("unikernel", &unikernel),
    ] {
        tar = entry(tar, &format!("usr/bin/{name}"), b'0', 0o755, 1000, script.as_bytes());
    }
    tar_of(&docker_legacy(&[(names, &[Layer::plain(tar)])]))
}

fn entry(tar: Tar, name: &str, kind: u8, mode: u32, owner: u64, content: &[u8]) -> Tar {
    let mut header = Tar::header(name, kind, content.len() as u64);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_cksum();
    tar.raw(&header, content)
}
