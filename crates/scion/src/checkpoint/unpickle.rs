//! The pickle machine: protocols 2 to 5, opcodes as in CPython's `pickletools`. Imports and calls are only recorded.

use std::collections::HashMap;

use super::pickle::{Node, Value};

/// Runs the pickle that `bytes` begin with; gives the arena of nodes, the value at the root and the pickle's length. The
/// error names the byte where reading stopped and why.
pub(super) fn run(bytes: &[u8]) -> Result<(Vec<Node>, Value, usize), String> {
    let mut machine =
        Machine { bytes, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    let root = machine.run().map_err(|why| format!("{why} (byte {} of {})", machine.at, bytes.len()))?;
    Ok((machine.nodes, root, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    /// Stack heights where MARK stood.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
}

type Step<T = ()> = Result<T, String>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        loop {
            let opcode = self.u8()?;
            if opcode == b'.' {
                return self.pop();
            }
            let known = self.scalar(opcode)?
                || self.stack(opcode)?
                || self.container(opcode)?
                || self.object(opcode)?;
            if !known {
                return Err(format!("the pickle opcode 0x{opcode:02x} is not one that checkpoints use"));
            }
        }
    }

    /// Opcodes that push a plain value, or steer the machine.
    fn scalar(&mut self, opcode: u8) -> Step<bool> {
        let value = match opcode {
            0x80 => {
                let protocol = self.u8()?;
                let readable = (2..=5).contains(&protocol);
                return if readable {
                    Ok(true)
                } else {
                    Err(format!("pickle protocol {protocol}; expected 2 to 5"))
                };
            }
            0x95 => return self.take(8).map(|_| true), // FRAME: a length that only helps buffering
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Value::Int(i64::from(self.u8()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => Value::Bytes(self.counted(1)?.into()),
            b'B' => Value::Bytes(self.counted(4)?.into()),
            0x8e | 0x96 => Value::Bytes(self.counted(8)?.into()),
            _ => return Ok(false),
        };
        self.stack.push(value);
        Ok(true)
    }

    /// Opcodes that move values between the stack and the memo.
    fn stack(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?.clone()),
            b'h' | b'j' => {
                let index = self.uint(if opcode == b'h' { 1 } else { 4 })?;
                let value =
                    self.memo.get(&index).ok_or_else(|| format!("nothing is memorised as {index}"))?;
                self.stack.push(value.clone());
            }
            b'q' | b'r' => {
                let index = self.uint(if opcode == b'q' { 1 } else { 4 })?;
                self.memo.insert(index, self.top()?.clone());
            }
            0x94 => drop(self.memo.insert(self.memo.len() as u64, self.top()?.clone())),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes of tuples, lists, dicts and sets.
    fn container(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b')' => self.push(Node::Tuple(vec![])),
            b']' => self.push(Node::List(vec![])),
            b'}' => self.push(Node::Dict(vec![])),
            0x8f => self.push(Node::Set(vec![])),
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let start =
                    self.stack.len().checked_sub(count).ok_or("the stack is too short for a tuple")?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items));
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Set(items));
            }
            b'd' => {
                let items = pairs(self.pop_mark()?)?;
                self.push(Node::Dict(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let items = pairs(self.pop_mark()?)?;
                self.set_items(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that would import, call or restore in Python; here they only record.
    fn object(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global { module, name });
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => {
                    self.push(Node::Global { module: module.to_string(), name: name.to_string() })
                }
                _ => return Err("a global's name is not a string".into()),
            },
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.push(Node::Call { function, arguments, state: None, items: vec![] });
            }
            0x92 => {
                let (_keywords, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.push(Node::Call { function, arguments, state: None, items: vec![] });
            }
            b'b' => {
                let restored = self.pop()?;
                if let Node::Call { state, .. } = self.top_node()? {
                    *state = Some(restored);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn append(&mut self, values: Vec<Value>) -> Step {
        match self.top_node()? {
            Node::List(items) | Node::Set(items) => items.extend(values),
            // A list subclass: its contents are not needed, and no name is looked for there.
            Node::Call { .. } => {}
            _ => return Err("items are appended to something that is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: Vec<(Value, Value)>) -> Step {
        match self.top_node()? {
            Node::Dict(items) | Node::Call { items, .. } => items.extend(pairs),
            _ => return Err("items are set on something that is not a dict".into()),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    /// The lowest stack height that the current mark allows to be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Value> {
        if self.stack.len() <= self.floor() {
            return Err("the stack is empty where a value is needed".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Step<&Value> {
        self.stack.last().ok_or_else(|| "the stack is empty where a value is needed".into())
    }

    fn top_node(&mut self) -> Step<&mut Node> {
        match self.top()? {
            Value::Node(index) => {
                let index = *index;
                self.nodes.get_mut(index).ok_or_else(|| "a value refers to nothing".into())
            }
            _ => Err("a plain value stands where a container is needed".into()),
        }
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let height = self.marks.pop().ok_or("no mark is set where one is needed")?;
        if height > self.stack.len() {
            return Err("a mark lies above the stack".into());
        }
        Ok(self.stack.split_off(height))
    }

    fn take(&mut self, count: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("the pickle ends where {count} more bytes are needed"))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Step<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian unsigned number of 1, 4 or 8 bytes.
    fn uint(&mut self, width: usize) -> Step<u64> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Bytes preceded by their count.
    fn counted(&mut self, width: usize) -> Step<&[u8]> {
        let count = usize::try_from(self.uint(width)?).map_err(|_| "a length exceeds the address space")?;
        self.take(count)
    }

    fn text(&mut self, width: usize) -> Step<Value> {
        let bytes = self.counted(width)?;
        Ok(Value::Str(String::from_utf8_lossy(bytes).into()))
    }

    fn long(&mut self, width: usize) -> Step<Value> {
        let bytes = self.counted(width)?;
        if bytes.len() > 8 {
            return Ok(Value::BigInt);
        }
        let negative = bytes.last().is_some_and(|&top| top & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends inside a name")?;
        let text = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len + 1;
        Ok(text)
    }
}

fn pairs(values: Vec<Value>) -> Step<Vec<(Value, Value)>> {
    let mut out = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let Some(key) = values.next() {
        out.push((key, values.next().ok_or("a dict has a key without a value")?));
    }
    Ok(out)
}
