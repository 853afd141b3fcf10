//! The socket between attacher and daemon: one verb at a time, one message each way. Messages are bounded, and carry no
//! descriptors after the handover: what the daemon would send along is dropped by the kernel.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
    sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout},
};

use super::{
    Answer, LiveError, Verb,
    wire::{self, MESSAGE_MAX, Outcome, Refusal, RefusalKind, WireError},
};

/// How long the attacher may take for a verb: it loads programs and waits for the kernel.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same for what it knows.
const WORD_MAX: Duration = Duration::from_secs(2);
/// Questions that may be unanswered: with more of them nothing is asked.
const UNANSWERED_MAX: u32 = 4;

/// Both ends of a new socket: the attacher's, and what the daemon is started with.
pub fn channel() -> io::Result<(Server, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    widen(&theirs)?;
    Ok((Server::of(ours)?, theirs))
}

/// Has room for a message. The kernel counts its own overhead, and takes less where it has to: then a long message is
/// refused.
fn widen(socket: &OwnedFd) -> io::Result<()> {
    Ok(set_socket_send_buffer_size(socket, 4 * MESSAGE_MAX)?)
}

/// Waits until the other end of the attacher's socket is closed.
pub fn wait_for_end(socket: &OwnedFd) {
    loop {
        // Nothing is asked for: an end is told in any case.
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Reads one message, whole or not at all. `None` is the end, or an empty message.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<Option<Result<usize, WireError>>> {
    let (_, length) = recv(socket, &mut *buffer, flags | RecvFlags::TRUNC)?;
    let max = buffer.len();
    let too_long = WireError::TooLong { what: "message", length, max };
    Ok((length > 0).then_some(if length > max { Err(too_long) } else { Ok(length) }))
}

/// The attacher's end.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What came of looking for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// One was answered, or refused.
    Answered,
    /// There is none.
    Nothing,
    /// There will be none any more.
    Ended,
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Server {
    /// Of a socket whose other end is a daemon's.
    pub(super) fn of(socket: OwnedFd) -> io::Result<Self> {
        widen(&socket)?;
        Ok(Self { socket, buffer: vec![0; MESSAGE_MAX] })
    }

    /// Answers a request, if there is one. Never waits: a daemon that does not read its answers does without them.
    pub fn serve(&mut self, perform: impl FnOnce(Verb) -> Outcome) -> Served {
        let flags = RecvFlags::DONTWAIT;
        let length = match receive(self.socket.as_fd(), &mut self.buffer, flags) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Served::Nothing,
            Err(_) | Ok(None) => return Served::Ended,
            Ok(Some(length)) => length,
        };
        let (number, outcome) = match length {
            Ok(length) => answer(&self.buffer[..length], perform),
            Err(error) => (0, Err(refused(&error))),
        };
        // What cannot be said is refused, so that nobody waits for it.
        let response = wire::response(number, &outcome)
            .or_else(|error| wire::response(number, &Err(refused(&error))));
        let sent = response.map_err(io::Error::other).and_then(|bytes| {
            Ok(send(&self.socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "the daemon was not answered");
        }
        Served::Answered
    }
}

/// What a request comes to; one that cannot be read as a whole is not performed.
pub fn answer(bytes: &[u8], perform: impl FnOnce(Verb) -> Outcome) -> (u32, Outcome) {
    let (number, verb) = wire::read_request(bytes);
    let outcome = match verb {
        Ok(verb) => perform(verb),
        Err(error) => {
            tracing::warn!(%error, "the daemon asked for what cannot be read");
            Err(refused(&error))
        }
    };
    (number, outcome)
}

fn refused(error: &WireError) -> Refusal {
    Refusal { kind: RefusalKind::Other, rule: None, message: error.to_string() }
}

impl From<&LiveError> for Refusal {
    fn from(error: &LiveError) -> Self {
        let kind = if error.is_privilege() {
            RefusalKind::Privilege
        } else if error.is_of_one_interface() {
            RefusalKind::OneInterface
        } else {
            RefusalKind::Other
        };
        let rule = error.rule().and_then(|rule| u32::try_from(rule).ok());
        Self { kind, rule, message: error.to_string() }
    }
}

/// The daemon's end.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Mutex<Asking>>);

#[derive(Debug)]
struct Asking {
    socket: OwnedFd,
    number: u32,
    /// Questions that were given up, and whose answers are still to come.
    unanswered: u32,
    buffer: Vec<u8>,
}

impl Remote {
    /// Asks over this socket from here on.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        widen(&socket)?;
        let buffer = vec![0; MESSAGE_MAX];
        Ok(Self(Arc::new(Mutex::new(Asking { socket, number: 0, unanswered: 0, buffer }))))
    }

    /// Asks the next attacher, over another socket.
    pub fn replace(&self, socket: OwnedFd) -> io::Result<()> {
        widen(&socket)?;
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (asking.socket, asking.unanswered) = (socket, 0);
        Ok(())
    }

    /// A descriptor of the socket, to see its end by.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).socket.try_clone()
    }

    /// Has the attacher do what is asked, and waits for that.
    pub fn perform(&self, verb: &Verb) -> Result<Answer, LiveError> {
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asking.perform(verb)
    }
}

impl Asking {
    fn perform(&mut self, verb: &Verb) -> Result<Answer, LiveError> {
        self.take_late_answers()?;
        if self.unanswered >= UNANSWERED_MAX {
            return Err(LiveError::Slow);
        }
        let most = match verb {
            Verb::Look { .. } | Verb::Serving | Verb::Ending => WORD_MAX,
            Verb::StartCapture { .. }
            | Verb::StopCapture { .. }
            | Verb::StopCaptures
            | Verb::SetRules(_)
            | Verb::RestoreRules(_) => ANSWER_MAX,
        };
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.socket, timeout, Some(most))
                .map_err(|error| lost(&error.into()))?;
        }
        self.number = self.number.wrapping_add(1);
        let request = wire::request(self.number, verb)?;
        send(&self.socket, &request, SendFlags::NOSIGNAL).map_err(|error| lost(&error.into()))?;
        self.unanswered += 1;
        loop {
            let (number, outcome) = self.answer(RecvFlags::empty())?;
            // Of a question that was given up.
            if number != self.number && number != 0 {
                continue;
            }
            return outcome?.map_err(LiveError::Refused);
        }
    }

    fn take_late_answers(&mut self) -> Result<(), LiveError> {
        while self.unanswered > 0 {
            match self.answer(RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(LiveError::Slow) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next answer: the number of its question, and what it says.
    fn answer(&mut self, flags: RecvFlags) -> Result<(u32, Result<Outcome, WireError>), LiveError> {
        let received = receive(self.socket.as_fd(), &mut self.buffer, flags);
        let Some(length) = received.map_err(|error| lost(&error))? else {
            return Err(LiveError::Attacher(io::ErrorKind::UnexpectedEof.into()));
        };
        self.unanswered = self.unanswered.saturating_sub(1);
        Ok(wire::read_response(&self.buffer[..length?]))
    }
}

/// What it means that nothing is sent or received.
fn lost(error: &io::Error) -> LiveError {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return LiveError::Slow;
    }
    let code = error.raw_os_error().map(io::Error::from_raw_os_error);
    LiveError::Attacher(code.unwrap_or_else(|| error.kind().into()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn pair() -> (Server, Remote) {
        let (server, theirs) = channel().unwrap();
        (server, Remote::new(theirs).unwrap())
    }

    fn serve_one(mut server: Server, outcome: Outcome) -> thread::JoinHandle<(Server, Verb)> {
        thread::spawn(move || {
            let mut asked = None;
            while asked.is_none() {
                server.serve(|verb| {
                    asked = Some(verb);
                    outcome.clone()
                });
                thread::yield_now();
            }
            (server, asked.unwrap())
        })
    }

    #[test]
    fn a_verb_goes_there_and_its_answer_back() {
        let (server, remote) = pair();
        let (look, answer) = (Verb::Look { left: vec![3] }, Answer::RulesSet { generation: 7 });
        let serving = serve_one(server, Ok(answer.clone()));
        assert_eq!(remote.perform(&look).unwrap(), answer);
        let (server, verb) = serving.join().unwrap();
        assert_eq!(verb, look);
        drop(server);
        assert!(matches!(remote.perform(&look), Err(LiveError::Attacher(_))));
    }

    #[test]
    fn an_attacher_that_does_not_answer_is_not_waited_for_again_and_again() {
        let (mut server, remote) = pair();
        let ending = remote.clone();
        let asking = thread::spawn(move || ending.perform(&Verb::Ending));
        assert!(matches!(asking.join().unwrap(), Err(LiveError::Slow)), "after a while");
        // As if it had been asked more often.
        remote.0.lock().unwrap().unanswered = UNANSWERED_MAX;
        assert!(matches!(remote.perform(&Verb::Ending), Err(LiveError::Slow)), "at once");
        assert_eq!(server.serve(|_| Ok(Answer::Done)), Served::Answered);
        // Its answer comes late, and is none to the next question.
        let answer = Answer::RulesSet { generation: 1 };
        let serving = serve_one(server, Ok(answer.clone()));
        remote.0.lock().unwrap().unanswered = 1;
        assert_eq!(remote.perform(&Verb::StopCaptures).unwrap(), answer);
        serving.join().unwrap();
    }

    #[test]
    fn a_refusal_keeps_its_kind_and_its_rule() {
        let (server, remote) = pair();
        let (rule, interface, watched) = (7, "eth9".to_owned(), "none is".to_owned());
        let error = LiveError::RuleInterface { rule, interface, watched };
        let serving = serve_one(server, Err(Refusal::from(&error)));
        let refused = remote.perform(&Verb::SetRules(Vec::new())).unwrap_err();
        assert_eq!((refused.rule(), refused.to_string()), (Some(7), error.to_string()));
        serving.join().unwrap();
    }

    #[test]
    fn what_is_too_long_or_no_request_is_refused_and_not_performed() {
        let (mut server, theirs) = channel().unwrap();
        let mut refuse = |bytes: &[u8], words: &str| {
            send(&theirs, bytes, SendFlags::empty()).unwrap();
            let served = server.serve(|verb| panic!("performed {verb:?}"));
            assert_eq!(served, Served::Answered);
            let mut buffer = vec![0; MESSAGE_MAX];
            let (_, length) = recv(&theirs, &mut *buffer, RecvFlags::empty()).unwrap();
            let (_, outcome) = wire::read_response(&buffer[..length]);
            let said = outcome.unwrap().unwrap_err().message;
            assert!(said.contains(words), "{said}");
        };
        refuse(&vec![1; MESSAGE_MAX + 1], "longer than");
        refuse(&[9, 0, 0, 0, 0, 5], "version 9");
        let version = wire::VERSION;
        refuse(&[version, 0, 0, 0, 0, 99], "verb 99");
        refuse(&[version, 0, 0, 0, 0, 4, 5], "1 bytes behind");
        refuse(&[version, 0, 0], "too early");
        drop(theirs);
        assert_eq!(server.serve(|verb| panic!("performed {verb:?}")), Served::Ended);
    }
}
