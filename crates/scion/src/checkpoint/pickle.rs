//! A pickle reader that executes nothing.
//!
//! The opcodes (`unpickle`) only build a tree of [`Node`]s. A class name becomes [`Node::Global`], a call becomes [`Node::Call`]: data
//! that the reader may recognise by name, never code. Nodes live in one flat arena and refer to each other by index,
//! so that hostile nesting can overflow no stack.

use std::rc::Rc;

use super::unpickle;

/// A plain value, or a reference to a node of the arena.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, whose value nothing here needs.
    BigInt,
    Float(f64),
    Str(Rc<str>),
    Bytes(Rc<[u8]>),
    Node(usize),
}

/// A compound value.
#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Set(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A class or function, by name only.
    Global {
        module: String,
        name: String,
    },
    /// An object some call would have made: never called, with what would have been put into it.
    Call {
        function: Value,
        arguments: Value,
        state: Option<Value>,
        items: Vec<(Value, Value)>,
    },
    /// A reference that the file format resolves: PyTorch's storages.
    Persistent(Value),
}

/// The tree a pickle describes.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Value,
}

impl Pickle {
    /// Parses a whole pickle. The error names the byte where reading stopped and why.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::parse_first(bytes).map(|(pickle, _)| pickle)
    }

    /// Parses the pickle that `bytes` begin with, and gives its length.
    pub(super) fn parse_first(bytes: &[u8]) -> Result<(Self, usize), String> {
        let (nodes, root, length) = unpickle::run(bytes)?;
        Ok((Self { nodes, root }, length))
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// The references that the file format resolves, in order of appearance.
    pub(super) fn persistent(&self) -> impl Iterator<Item = &Value> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(id),
            _ => None,
        })
    }

    /// The node a value refers to, if it refers to one.
    pub(super) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(*index),
            _ => None,
        }
    }

    /// The dotted name of a global.
    pub(super) fn global(&self, value: &Value) -> Option<String> {
        match self.node(value)? {
            Node::Global { module, name } => Some(format!("{module}.{name}")),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub(super) fn tuple(&self, value: &Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Name and arguments of a call.
    pub(super) fn call(&self, value: &Value) -> Option<(String, &[Value])> {
        match self.node(value)? {
            Node::Call { function, arguments, .. } => Some((self.global(function)?, self.tuple(arguments)?)),
            _ => None,
        }
    }

    /// The items of a dict, of an `OrderedDict`, or of a namespace's state.
    pub(super) fn items(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(items) => Some(items),
            Node::Call { function, state, items, .. } => match self.global(function)?.as_str() {
                "collections.OrderedDict" => Some(items),
                "argparse.Namespace" => match self.node(state.as_ref()?)? {
                    Node::Dict(items) => Some(items),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// What a value is, in words for an error.
    pub(super) fn describe(&self, value: &Value) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(_) => "a bool".into(),
            Value::Int(_) | Value::BigInt => "an int".into(),
            Value::Float(_) => "a float".into(),
            Value::Str(_) => "a string".into(),
            Value::Bytes(_) => "bytes".into(),
            Value::Node(_) => match self.node(value) {
                Some(Node::Tuple(_)) => "a tuple".into(),
                Some(Node::List(_)) => "a list".into(),
                Some(Node::Set(_)) => "a set".into(),
                Some(Node::Dict(_)) => "a dict".into(),
                Some(Node::Global { module, name }) => format!("the class or function {module}.{name}"),
                Some(Node::Call { function, .. }) => match self.global(function) {
                    Some(name) => format!("an object of {name}"),
                    None => "an object".into(),
                },
                Some(Node::Persistent(_)) => "a storage".into(),
                None => "nothing".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_recorded_never_made() {
        // What `os.system("x")` pickles to.
        let pickle = Pickle::parse(b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R.").unwrap();
        let (name, arguments) = pickle.call(pickle.root()).unwrap();
        assert_eq!(name, "posix.system");
        assert_eq!(arguments, [Value::Str("x".into())]);
        assert!(pickle.items(pickle.root()).is_none());
    }

    #[test]
    fn memo_long_and_nesting() {
        // [-2, big, same list] with the list memorised inside itself.
        let pickle = Pickle::parse(b"\x80\x04]\x94(\x8a\x01\xfe\x8a\x09\0\0\0\0\0\0\0\0\x01h\x00e.").unwrap();
        let Some(Node::List(items)) = pickle.node(pickle.root()) else { panic!("not a list") };
        assert_eq!(items, &[Value::Int(-2), Value::BigInt, Value::Node(0)]);
        // A million nested tuples must neither overflow while building nor while dropping.
        let deep = [b"\x80\x02)".as_slice(), &[0x85; 1_000_000], b"."].concat();
        assert!(Pickle::parse(&deep).is_ok());
    }

    #[test]
    fn damage_is_an_error() {
        let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bG?\xf8\0\0\0\0\0\0u.";
        let pickle = Pickle::parse(whole).unwrap();
        assert_eq!(pickle.items(pickle.root()).unwrap()[1].1, Value::Float(1.5));
        for len in 0..whole.len() {
            assert!(Pickle::parse(&whole[..len]).is_err(), "cut at {len}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                drop(Pickle::parse(&changed));
            }
        }
        assert!(Pickle::parse(b"\x80\x02(0.").is_err());
        assert!(Pickle::parse(b"\x80\x00.").unwrap_err().contains("protocol 0"));
    }
}
