//! Lines of the control socket, of both directions.

use podgate_api::{Answer, Request};

/// Input: a line.
pub fn requests(data: &[u8]) {
    match Request::parse(data) {
        Ok(request) => {
            let line = request.to_line();
            assert_eq!(Request::parse(line.as_bytes()), Ok(request), "{line}");
        }
        Err(rejected) => {
            // A client gets its error in one line.
            assert!(!rejected.message.is_empty());
            let line = Answer::Error(rejected.clone()).to_line();
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert_eq!(Answer::parse(&line), Ok(Answer::Error(rejected)), "{line}");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(answer) = Answer::parse(text)
    {
        assert_eq!(Answer::parse(&answer.to_line()), Ok(answer));
    }
}
