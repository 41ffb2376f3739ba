package example;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import example.messages.Click;
import example.messages.Recommendation;
import example.messages.ScoredItem;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeoutException;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends clicks of one user, and prints the recommendation that answers each of them; then does the
 * same over HTTP, and asks for the list of a history.
 *
 * <pre>java -Dbrokers=localhost:9092 -Duser=alice -jar target/shop.jar 1 2 3</pre>
 */
public final class Shop {
  private static final Duration PATIENCE = Duration.ofMinutes(1);

  /** A later version of the service may add fields. */
  private static final ObjectMapper JSON =
      JsonMapper.builder().disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES).build();

  private static final HttpClient HTTP = HttpClient.newHttpClient();

  /** What an answer is known by: a second one with the same key is a repetition. */
  private record AnswerKey(String userId, String eventId) {}

  private record HistoryRequest(List<String> history, int k) {}

  private record Recommendations(@JsonProperty(required = true) List<ScoredItem> items) {}

  private record ClickAccepted(Recommendations recommendations) {}

  public static void main(String[] items) throws Exception {
    String brokers = System.getProperty("brokers", "localhost:9092");
    String clicks = System.getProperty("clicks", "clicks");
    String answers = System.getProperty("recommendations", "recommendations");
    String user = System.getProperty("user", "alice");
    String api = System.getProperty("api"); // null: do not ask it

    try (var consumer = consumer(brokers);
        var producer = producer(brokers)) {
      seekToEnd(consumer, answers);
      Map<AnswerKey, String> open = send(producer, clicks, user, items);
      readAnswers(consumer, open);
    }
    if (api != null) {
      clickOverHttp(api, user, items[items.length - 1]);
      ask(api, List.of(items));
    }
  }

  private static KafkaProducer<String, byte[]> producer(String brokers) {
    // The last two are the defaults since Kafka 3.0, and so is murmur2 of the key.
    return new KafkaProducer<>(
        Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true),
        new StringSerializer(),
        new ByteArraySerializer());
  }

  private static KafkaConsumer<String, byte[]> consumer(String brokers) {
    return new KafkaConsumer<>(
        Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed"),
        new StringDeserializer(),
        new ByteArrayDeserializer());
  }

  /** Reads from here on, without a group. */
  private static void seekToEnd(Consumer<?, ?> consumer, String topic) {
    var partitions =
        consumer.partitionsFor(topic).stream()
            .map(info -> new TopicPartition(topic, info.partition()))
            .toList();
    consumer.assign(partitions);
    consumer.seekToEnd(partitions);
    partitions.forEach(consumer::position); // looks up the end now, before the first click
  }

  private static Click click(String user, String item) {
    return new Click()
        .withEventId(UUID.randomUUID().toString())
        .withUserId(user)
        .withItemId(item)
        .withTimestamp(System.currentTimeMillis());
  }

  /** Produces a click on each item, and returns when Kafka has them all. */
  private static Map<AnswerKey, String> send(
      Producer<String, byte[]> producer, String topic, String user, String[] items)
      throws Exception {
    Map<AnswerKey, String> sent = new HashMap<>();
    for (String item : items) {
      Click click = click(user, item); // keep it for a retry of your own: its event id counts once
      producer.send(new ProducerRecord<>(topic, user, JSON.writeValueAsBytes(click))).get();
      sent.put(new AnswerKey(user, click.getEventId()), item);
    }
    return sent;
  }

  /** Prints the answer to each of the clicks once. */
  private static void readAnswers(Consumer<String, byte[]> consumer, Map<AnswerKey, String> open)
      throws IOException, TimeoutException {
    Instant end = Instant.now().plus(PATIENCE);
    while (!open.isEmpty()) {
      if (Instant.now().isAfter(end)) {
        throw new TimeoutException(open.size() + " clicks are not answered");
      }
      for (var record : consumer.poll(Duration.ofSeconds(1))) {
        Recommendation answer = JSON.readValue(record.value(), Recommendation.class);
        String item = open.remove(new AnswerKey(answer.getUserId(), answer.getEventId()));
        if (item != null) { // else somebody else's, or a repetition
          System.out.printf("after %s: %s%n", item, ids(answer.getItems()));
        }
      }
    }
  }

  /** Publishes a click, and prints the list for the history that it ends. */
  private static void clickOverHttp(String api, String user, String item) throws Exception {
    URI uri = URI.create(api + "/clicks?recommend=true&k=3");
    Recommendations list = post(uri, click(user, item), ClickAccepted.class).recommendations();
    if (list == null) {
      throw new IOException("the click is published, but there is no list now");
    }
    System.out.printf("after %s over HTTP: %s%n", item, ids(list.items()));
  }

  /** Prints the list for a history that comes with the request. */
  private static void ask(String api, List<String> history) throws Exception {
    URI uri = URI.create(api + "/recommendations");
    Recommendations list = post(uri, new HistoryRequest(history, 3), Recommendations.class);
    System.out.printf("for the history: %s%n", ids(list.items()));
  }

  private static <T> T post(URI uri, Object body, Class<T> type) throws Exception {
    var request =
        HttpRequest.newBuilder(uri)
            .timeout(PATIENCE)
            .header("Content-Type", "application/json")
            .POST(BodyPublishers.ofByteArray(JSON.writeValueAsBytes(body)));
    String key = System.getenv("NEXTCLICK_API__KEY");
    if (key != null) {
      request.header("X-API-Key", key);
    }
    var response = HTTP.send(request.build(), BodyHandlers.ofString());
    if (response.statusCode() / 100 != 2) {
      throw new IOException(
          "%s answers %d: %s".formatted(uri, response.statusCode(), response.body()));
    }
    return JSON.readValue(response.body(), type);
  }

  private static List<String> ids(List<ScoredItem> items) {
    return items.stream().map(ScoredItem::getItemId).toList();
  }
}
