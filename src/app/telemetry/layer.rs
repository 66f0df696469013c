//! The layer that hears every record, and the routes by which it finds where each is to go. Python's rules hold: a
//! record's level is that of the nearest logger with one, and it goes to the handlers of all loggers above it, until one
//! keeps it to itself (`propagate: false`).

use std::fmt::Write as _;

use arc_swap::ArcSwap;
use chrono::Local;
use hearth_base::Result;
use hearth_config::telemetry::{Level, LogConfig, LogTarget, Logger};
use serde_json::{Value, json};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{filter::Targets, layer::Context, registry::LookupSpan};

use super::{
    form::{Form, Record},
    names,
    sink::Sink,
};

/// The routes in force.
pub(super) struct Live(ArcSwap<Routes>);

impl Live {
    pub(super) fn new(routes: Routes) -> Self {
        Self(ArcSwap::from_pointee(routes))
    }

    /// Takes other routes; what was enabled or not is asked again.
    pub(super) fn replace(&self, routes: Routes) {
        self.0.store(routes.into());
        tracing::callsite::rebuild_interest_cache();
    }

    pub(super) fn on_terminal(&self) -> bool {
        self.0
            .load()
            .root_handlers
            .iter()
            .filter_map(|place| self.0.load().handlers.get(*place).map(|h| h.stderr))
            .any(|on| on)
    }
}

/// What goes whither.
pub(super) struct Routes {
    root: Level,
    root_handlers: Vec<usize>,
    /// The longest names first, so that the nearest logger comes before those above it.
    loggers: Vec<Logger>,
    handlers: Vec<Handler>,
    /// Levels that are stronger than those of loggers.
    forced: Option<Targets>,
}

struct Handler {
    level: Level,
    form: Form,
    sink: Sink,
    stderr: bool,
}

impl Routes {
    /// The routes of a log file, with all sinks open.
    ///
    /// # Errors
    /// A sentence for the first that cannot be opened.
    pub(super) fn new(config: &LogConfig, forced: Option<Targets>) -> Result<Self> {
        let mut handlers = Vec::new();
        for handler in &config.handlers {
            handlers.push(Handler {
                level: handler.level,
                form: Form::new(&handler.format),
                sink: Sink::open(&handler.target)?,
                stderr: handler.target == LogTarget::Stderr,
            });
        }
        let mut loggers = config.loggers.clone();
        loggers.sort_by_key(|logger| std::cmp::Reverse(logger.name.len()));
        Ok(Self { root: config.root, root_handlers: config.root_handlers.clone(), loggers, handlers, forced })
    }

    /// Whether a record of a module, which Synapse would call by `name`, is wanted.
    fn enabled(&self, target: &str, name: &str, level: tracing::Level) -> bool {
        if let Some(forced) = &self.forced {
            return forced.would_enable(target, &level);
        }
        let nearest = self.loggers.iter().filter(|l| names::covers(&l.name, target, name)).find_map(|l| l.level);
        match nearest {
            None if self.root == Level::Info && names::is_chatty(target) => LevelFilter::WARN >= level,
            _ => filter(nearest.unwrap_or(self.root)) >= level,
        }
    }

    /// Spans are always heard, as records may stand in them; those of chatty libraries with their records only.
    fn hears(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), *metadata.level());
        metadata.is_span() && !names::is_chatty(target)
            || self.enabled(target, &names::of_synapse(target), level)
            // By which listener a request came in is in the record.
            || target == names::ACCESS && self.of_listeners().any(|l| l.level.is_some_and(|of| filter(of) >= level))
    }

    /// The loggers for requests of one listener each.
    fn of_listeners(&self) -> impl Iterator<Item = &Logger> {
        self.loggers.iter().filter(|l| l.name.starts_with(names::OF_LISTENER))
    }

    /// The loudest level of anybody.
    fn most(&self) -> LevelFilter {
        if self.forced.is_some() {
            return LevelFilter::TRACE;
        }
        let levels = self.loggers.iter().filter_map(|l| l.level).map(filter);
        levels.fold(filter(self.root), std::cmp::max)
    }

    /// The handlers of a record, each once.
    fn handlers(&self, target: &str, name: &str) -> Vec<&Handler> {
        let mut places: Vec<usize> = Vec::new();
        let mut rises = true;
        for logger in self.loggers.iter().filter(|l| names::covers(&l.name, target, name)) {
            places.extend(&logger.handlers);
            if !logger.propagate {
                rises = false;
                break;
            }
        }
        if rises {
            places.extend(&self.root_handlers);
        }
        places.sort_unstable();
        places.dedup();
        places.iter().filter_map(|place| self.handlers.get(*place)).collect()
    }
}

/// Python's levels as ours. An error is never hidden: there is nothing above it here.
fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warning => LevelFilter::WARN,
        Level::Error | Level::Critical => LevelFilter::ERROR,
    }
}

/// The layer; clones of the pointer reach the same routes.
pub(super) struct Layer(pub std::sync::Arc<Live>);

/// What a span adds to the records in it.
struct InCourseOf(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.0.load().hears(metadata) {
            return Interest::always();
        }
        // Records of the crate `log` come through one callsite for all of them.
        if metadata.target() == "log" { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.0.load().hears(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.0.load().most())
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut text = attributes.metadata().name().to_owned();
        for (n, (_, value)) in fields.others.iter().enumerate() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(text, "{}{value}", if n == 0 { "-" } else { "," });
        }
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(InCourseOf(text));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let normal = event.normalized_metadata();
        let metadata = normal.as_ref().unwrap_or_else(|| event.metadata());
        let routes = self.0.0.load();
        let level = *metadata.level();
        let target = metadata.target();
        let mut name = names::of_synapse(target);
        let mut fields = Fields::default();
        let by_listener = target == names::ACCESS && routes.of_listeners().next().is_some();
        if by_listener {
            event.record(&mut fields);
            name = format!("{}{}", names::OF_LISTENER, fields.text("listener"));
            if !routes.enabled(target, &name, level) {
                return;
            }
        }
        let mut handlers = routes.handlers(target, &name);
        handlers.retain(|handler| handler.level == Level::Debug || filter(handler.level) >= level);
        if handlers.is_empty() {
            return;
        }
        if !by_listener {
            event.record(&mut fields);
        }
        let request = context.event_scope(event).and_then(|mut scope| {
            scope.find_map(|span| span.extensions().get::<InCourseOf>().map(|course| course.0.clone()))
        });
        let record = Record {
            time: Local::now(),
            level,
            target,
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            message: fields.message,
            fields: fields.others,
            request: request.unwrap_or_default(),
        };
        for handler in handlers {
            handler.sink.write(&handler.form.line(&record), level, record.time);
        }
    }
}

/// What a record says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn text(&self, name: &str) -> &str {
        self.others.iter().find(|(field, _)| field == name).and_then(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            // Where the crate `log` was called from, which the record has already.
            name if name.starts_with("log.") => {}
            name => self.others.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, json!(value.to_string()));
    }
}
