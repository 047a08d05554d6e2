//! The socket filter that keeps out of user space what nobody counts.
//!
//! A classic BPF program: the kernel runs it on every notification before it is queued. It sees the netlink message from
//! its header on, and finds attributes by two extensions of the kernel (`SKF_AD_NLATTR`, `SKF_AD_NLATTR_NEST`), which take
//! where to begin from A and the attribute's number from X, and put its place into A, or 0.

use socket2::SockFilter;

// struct bpf_insn: class, size and mode of the instructions that are used.
const LOAD_NUMBER: u16 = 0x00; // BPF_LD | BPF_IMM
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_WORD_AT_X: u16 = 0x40; // BPF_LD | BPF_W | BPF_IND
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const LOAD_BYTE_AT_X: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
const LOAD_SAVED: u16 = 0x60; // BPF_LD | BPF_MEM
const SAVE: u16 = 0x02; // BPF_ST
const X_IS: u16 = 0x01; // BPF_LDX | BPF_IMM
const X_IS_A: u16 = 0x07; // BPF_MISC | BPF_TAX
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// SKF_AD_OFF + SKF_AD_NLATTR
const FIND: u32 = 0xffff_f000 + 12;
/// SKF_AD_OFF + SKF_AD_NLATTR_NEST
const FIND_WITHIN: u32 = 0xffff_f000 + 16;

/// Behind struct nlmsghdr and struct nfgenmsg.
const ATTRIBUTES: u32 = 20;
/// The low byte of nlmsg_type: a number in the host's byte order.
const MESSAGE: u32 = if cfg!(target_endian = "little") { 4 } else { 5 };
/// The high byte of nlmsg_flags.
const FLAGS: u32 = if cfg!(target_endian = "little") { 7 } else { 6 };

/// Where the program goes on.
#[derive(Clone, Copy)]
enum Next {
    On,
    Keep,
    Drop,
}
use Next::{Drop, Keep, On};

type Step = (u16, u32, Next, Next);

const fn step(code: u16, value: u32) -> Step {
    (code, value, On, On)
}

/// Lets through, of connections whose destination was translated: their begin; the change to a TCP state in which they
/// are over (see [`has_closed`](super::flow::has_closed)); and their end. So does a connection that closed by a reset and
/// is opened anew as the same entry (a server's reset, and the same client port within ten seconds): it goes back to
/// SYN_RECV, with the mark that it was established before, which no other connection has in that state.
///
/// The end of one that has closed before goes through, too: the kernel tells of a refused connection by its end alone,
/// in the state CLOSE.
pub fn redirected_begin_and_end() -> Vec<SockFilter> {
    const STATUS: u32 = 3; // CTA_STATUS
    const DST_NAT: u32 = 1 << 5; // IPS_DST_NAT
    const ASSURED: u32 = 1 << 2; // IPS_ASSURED
    const DELETE: u32 = 2; // IPCTNL_MSG_CT_DELETE
    const CREATE: u32 = 0x04; // NLM_F_CREATE, of the high byte
    const PROTOCOL_INFO: u32 = 4; // CTA_PROTOINFO
    const TCP: u32 = 1; // CTA_PROTOINFO_TCP
    const STATE: u32 = 1; // CTA_PROTOINFO_TCP_STATE
    const VALUE: u32 = 4; // behind struct nlattr
    const SYN_RECV: u32 = 2; // TCP_CONNTRACK_SYN_RECV
    const TIME_WAIT: u32 = 7; // TCP_CONNTRACK_TIME_WAIT
    const CLOSE: u32 = 8; // TCP_CONNTRACK_CLOSE
    assemble(&[
        step(LOAD_NUMBER, ATTRIBUTES),
        step(X_IS, STATUS),
        step(LOAD_WORD, FIND),
        (IF_EQUAL, 0, Drop, On),
        step(X_IS_A, 0),
        step(LOAD_WORD_AT_X, VALUE),
        step(SAVE, 0),
        (IF_SET, DST_NAT, On, Drop),
        step(LOAD_BYTE, MESSAGE),
        (IF_EQUAL, DELETE, Keep, On),
        step(LOAD_BYTE, FLAGS),
        (IF_SET, CREATE, Keep, On),
        step(LOAD_NUMBER, ATTRIBUTES),
        step(X_IS, PROTOCOL_INFO),
        step(LOAD_WORD, FIND),
        (IF_EQUAL, 0, Drop, On),
        step(X_IS, TCP),
        step(LOAD_WORD, FIND_WITHIN),
        (IF_EQUAL, 0, Drop, On),
        step(X_IS, STATE),
        step(LOAD_WORD, FIND_WITHIN),
        (IF_EQUAL, 0, Drop, On),
        step(X_IS_A, 0),
        step(LOAD_BYTE_AT_X, VALUE),
        (IF_EQUAL, TIME_WAIT, Keep, On),
        (IF_EQUAL, CLOSE, Keep, On),
        (IF_EQUAL, SYN_RECV, On, Drop),
        step(LOAD_SAVED, 0),
        (IF_SET, ASSURED, Keep, Drop),
    ])
}

/// Jumps of classic BPF count instructions, forward only.
fn assemble(steps: &[Step]) -> Vec<SockFilter> {
    let keep = steps.len();
    let distance = |at: usize, next: Next| match next {
        On => 0,
        Keep => keep - at - 1,
        Drop => keep - at,
    };
    let instruction = |(at, step): (usize, &Step)| {
        let jump = |next| u8::try_from(distance(at, next)).unwrap_or(u8::MAX);
        SockFilter::new(step.0, jump(step.2), jump(step.3), step.1)
    };
    let ends = [SockFilter::new(RETURN, 0, 0, u32::MAX), SockFilter::new(RETURN, 0, 0, 0)];
    steps.iter().enumerate().map(instruction).chain(ends).collect()
}
