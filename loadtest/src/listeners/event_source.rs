//! Reads server-sent events as they come. Source: the HTML standard, "Server-sent events".

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub event: String,
    /// Its id; empty when it has none.
    pub id: String,
    /// Its data.
    pub data: String,
}

/// What has come of a stream and is no whole event yet.
#[derive(Debug, Default)]
pub struct EventSource {
    rest: Vec<u8>,
    message: Message,
}

impl EventSource {
    /// Takes bytes, and returns the events that are whole with them.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.rest.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                whole.extend((!message.data.is_empty()).then_some(message));
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.message.event),
                "id" => value.clone_into(&mut self.message.id),
                "data" => {
                    if !self.message.data.is_empty() {
                        self.message.data.push('\n');
                    }
                    self.message.data.push_str(value);
                }
                // A comment, a time to wait, and what a later version says.
                _ => {}
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_their_bytes_come() {
        let text = "retry: 1043\n\nevent: order\nid: a.b\ndata: {\"a\":1}\n\n:\n\nevent: bye\r\ndata: x\r\ndata: y\r\n\r\n";
        let message = |event: &str, id: &str, data: &str| Message {
            event: event.to_owned(),
            id: id.to_owned(),
            data: data.to_owned(),
        };
        let wanted = [message("order", "a.b", "{\"a\":1}"), message("bye", "", "x\ny")];
        for size in [1, 2, 7, text.len()] {
            let mut source = EventSource::default();
            let read: Vec<Message> =
                text.as_bytes().chunks(size).flat_map(|part| source.read(part)).collect();
            assert_eq!(read, wanted, "{size}");
        }
    }
}
