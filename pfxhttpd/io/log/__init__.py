"""The log: one line per record, to standard output or to syslog.

Every process of the server writes to the same stream or syslog socket by itself. No call waits and none raises: mail is
answered whether or not the log can be written. A line that cannot be written at once is lost and counted, and a line
with the number of lost lines precedes the next one that can be written.

    logger       levels and fields
    lost_lines   the number of lines that were lost
    stream_sink  a pipe, terminal, file or stream socket
    syslog_sink  the local syslog
"""

from pfxhttpd.io.log.logger import Logger
from pfxhttpd.io.log.stream_sink import StreamSink
from pfxhttpd.io.log.syslog_sink import FACILITIES, SyslogSink

__all__ = ["FACILITIES", "Logger", "StreamSink", "SyslogSink"]
