use super::*;

const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, payload: usize) -> Vec<u8> {
    let length = (payload as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
    frame.resize(HEAD + payload, 0);
    frame
}

fn begun() -> Frames {
    let mut frames = Frames::default();
    frames.received(PREFACE).unwrap();
    frames
}

/// How many frames are accepted at once.
fn taken(frames: &mut Frames, frame: &[u8]) -> usize {
    (0..5000)
        .take_while(|_| frames.received(frame).is_ok())
        .count()
}

#[tokio::test(start_paused = true)]
async fn frames_that_move_nothing_end_the_connection_after_some_hundreds() {
    for (kind, payload, want) in [
        (PRIORITY, 5, 949),
        (3, 4, 963),
        (4, 0, 1024),
        (PING, 8, 910),
        (WINDOW_UPDATE, 4, 963),
        // Unknown, and large.
        (0xee, 16 << 10, 3),
        // One byte of a body in each.
        (DATA, 1, 1040),
    ] {
        let got = taken(&mut begun(), &frame(kind, payload));
        assert_eq!(got, want, "type {kind}");
    }
    let mut padded = frame(DATA, 257);
    padded[4] = PADDED;
    assert_eq!(taken(&mut begun(), &padded), 1040);
}

#[tokio::test(start_paused = true)]
async fn bodies_requests_and_http_1_are_not_limited() {
    for (kind, payload) in [(DATA, FRAME as usize), (DATA, 16 << 10), (HEADERS, 100)] {
        assert_eq!(taken(&mut begun(), &frame(kind, payload)), 5000, "{kind}");
    }
    // Bytes that would be frames after a preface.
    let mut other = Frames::default();
    other.received(b"PUT /").unwrap();
    assert_eq!(taken(&mut other, &frame(PRIORITY, 5)), 5000);
    assert!(other.is_other() && !other.ends_turn());
}

#[tokio::test(start_paused = true)]
async fn allowance_grows_with_time_and_with_what_is_moved() {
    let ping = frame(PING, 8);
    let mut frames = begun();
    // As clients do to keep a connection alive, or to measure it while they send or read.
    for _ in 0..5000 {
        frames.received(&ping).unwrap();
        tokio::time::advance(Duration::from_millis(50)).await;
    }
    let mut frames = begun();
    for _ in 0..5000 {
        frames.received(&ping).unwrap();
        frames.received(&frame(DATA, 1000)).unwrap();
    }
    let mut frames = begun();
    let windows = frame(WINDOW_UPDATE, 4).repeat(2);
    for _ in 0..5000 {
        frames.sent(1024);
        frames.received(&windows).unwrap();
    }
    // Not beyond the initial value.
    frames.sent(usize::MAX);
    assert!(taken(&mut frames, &ping) < 1000);
}

#[tokio::test(start_paused = true)]
async fn frames_are_found_wherever_reads_end_and_others_get_their_turn() {
    let mut bytes = PREFACE.to_vec();
    for n in 0..TURN as usize {
        bytes.extend(frame(DATA, n));
    }
    for length in [1, 2, 7, 10, 1000] {
        let mut frames = Frames::default();
        let (all, last) = bytes.split_at(bytes.len() - 1 - TURN as usize);
        for piece in all.chunks(length) {
            frames.received(piece).unwrap();
            assert!(!frames.ends_turn());
        }
        frames.received(last).unwrap();
        assert!(frames.ends_turn());
        assert!(!frames.ends_turn());
    }
}
