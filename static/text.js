// What the page says, in two languages. A name that is not here is shown as it is.

const ENGLISH = {
  skip: 'Skip to the answer', title: 'LLM Memory Calculator', bytes: 'bytes', theme: 'Theme', docs: 'API', units: 'Units',
  question: 'What to calculate', model: 'Model', inference: 'Inference', training: 'Training', workload: 'Workload',
  recipe: 'Recipe', storage: 'Number formats', serving: 'Engine', sharding: 'Parallelism', card: 'GPU', more: 'More',
  bundled: 'Bundled model', config: 'config.json', sizes: 'Sizes', calculation_type: 'Calculate',
  search: 'Search {count} models: name, family, size', none: 'none', own: "the checkpoint's own", automatic: 'default',
  model_name: 'Model', model_size: 'Billions of parameters', hidden_size: 'Hidden size', num_hidden_layers: 'Layers',
  num_attention_heads: 'Attention heads', num_key_value_heads: 'Key-value heads', intermediate_size: 'Feed-forward width',
  vocab_size: 'Vocabulary', head_dim: 'Head width', batch_size: 'Sequences at once', sequence_length: 'Tokens a sequence',
  prompt_length: 'Prompt tokens', logits: 'Logits', precision: 'Precision', quantization: 'Quantization',
  format: 'Weights', kv_cache_precision: 'Cache precision', attention: 'Attention', engine: 'Engine',
  engine_version: 'Engine version', tensor_parallel: 'Tensor parallel', pipeline_parallel: 'Pipeline parallel',
  expert_parallel: 'Expert parallel', data_parallel: 'Data parallel', data_parallel_attention: 'Replicas share experts',
  gpu: 'GPU', gpu_count: 'GPUs', gpu_memory_gib: 'GPU memory (GiB)', framework: 'Framework', kernels: 'Kernels',
  mixed_precision: 'Mixed precision', optimizer: 'Optimizer', optimizer_implementation: 'Optimizer implementation',
  optimizer_in_backward: 'Optimizer in the backward pass', method: 'Method', trainable_parameters: 'Trained parameters (%)',
  gradient_checkpointing: 'Gradient checkpointing', activation_offload: 'Activation offload', loss: 'Loss',
  keep_logits: 'Keep logits through backward', gradient_accumulation: 'Gradient accumulation', zero_stage: 'ZeRO stage',
  sequence_parallel: 'Sequence parallel', context_parallel: 'Context parallel', pipeline_schedule: 'Pipeline schedule',
  virtual_stages: 'Virtual stages', micro_batches: 'Micro batches', compile: 'torch.compile',
  gradient_precision: 'Gradient precision', optimizer_state_precision: 'Optimizer state precision',
  'lora.rank': 'LoRA rank', 'lora.target_modules': 'LoRA targets', 'lora.precision': 'Adapter precision', 'lora.dora': 'DoRA',
  model_weights: 'Weights', kv_cache: 'KV cache', activation_memory: 'Activations', runtime_overhead: 'Runtime overhead',
  gradient_memory: 'Gradients', optimizer_memory: 'Optimizer states', master_weights: 'Master weights',
  adapter_memory: 'Adapters', temporary_memory: 'Temporary', inference_memory: 'Total', training_memory: 'Total',
  prefill: 'Prefill', decode: 'Decode', forward: 'Forward', backward: 'Backward', optimizer_step: 'Optimizer step',
  total_title: 'Memory', per_gpu: 'fullest GPU', whole: 'whole job, {count} GPUs', phases_title: 'Moments', peak: 'peak',
  curve_title: 'Memory over context', grid_title: 'Context × sequences at once', cards_title: 'GPUs that hold it',
  compare_title: 'Side by side', share_title: 'Share', part: 'Part', size: 'Size', formula: 'How it is computed',
  moment: 'Moment', fits: 'fits', full: 'does not fit', free: 'free', over: 'too much', of: 'of', split: 'Split',
  needed: 'Needed', room_left: 'Free on each', show_cards: 'Find the GPUs', show_grid: 'Compute the table',
  add: 'Add this to the comparison', remove: 'Remove', link: 'Copy link', curl: 'Copy as curl', python: 'Copy as Python',
  svg: 'Picture (SVG)', png: 'Picture (PNG)', csv: 'Figures (CSV)', json: 'Figures (JSON)', copied: 'Copied',
  waiting: 'Asking…', failed: 'The service does not answer: {why}', limit: 'limit of the card', tokens: 'tokens',
  crosses: 'fits up to {count} tokens', suggestions: 'What would help', saves: 'saves {size}', use: 'Use',
  range: 'from {low} to {high}', load: 'Use', light: 'light', dark: 'dark', system: 'as the system',
  bad_json: 'This is not JSON: {why}', pick: 'Choose a model to begin.', no_match: 'No model matches.',
  parameters: '{count} parameters', max_batch: 'most sequences at this length: {count}',
  max_length: 'longest context at this batch: {count}', reserved: 'cache set aside {size}, needed {need}',
  report: 'What the engine prints', engine_options: 'Engine options', difference: 'compared with the first',
};

const CHINESE = {
  skip: '跳到结果', title: '大模型显存计算器', bytes: '字节', theme: '主题', docs: '接口', units: '单位',
  question: '要计算什么', model: '模型', inference: '推理', training: '训练', workload: '负载', recipe: '训练配方',
  storage: '数值格式', serving: '推理引擎', sharding: '并行', card: '显卡', more: '更多', bundled: '内置模型',
  config: 'config.json', sizes: '自定尺寸', calculation_type: '计算', search: '在 {count} 个模型中搜索：名称、系列、大小',
  none: '无', own: '检查点自带', automatic: '默认', model_name: '模型', model_size: '参数量（十亿）', hidden_size: '隐藏维度',
  num_hidden_layers: '层数', num_attention_heads: '注意力头数', num_key_value_heads: '键值头数', intermediate_size: '前馈维度',
  vocab_size: '词表大小', head_dim: '每头维度', batch_size: '并发序列数', sequence_length: '每序列词元数',
  prompt_length: '提示词元数', logits: 'Logits', precision: '精度', quantization: '量化', format: '权重格式',
  kv_cache_precision: '缓存精度', attention: '注意力实现', engine: '引擎', engine_version: '引擎版本',
  tensor_parallel: '张量并行', pipeline_parallel: '流水线并行', expert_parallel: '专家并行', data_parallel: '数据并行',
  data_parallel_attention: '副本共享专家', gpu: '显卡', gpu_count: '显卡数量', gpu_memory_gib: '显存（GiB）',
  framework: '框架', kernels: '算子', mixed_precision: '混合精度', optimizer: '优化器',
  optimizer_implementation: '优化器实现', optimizer_in_backward: '反向中更新参数', method: '方法',
  trainable_parameters: '可训练参数（%）', gradient_checkpointing: '梯度检查点', activation_offload: '激活卸载', loss: '损失',
  keep_logits: '反向期间保留 logits', gradient_accumulation: '梯度累积', zero_stage: 'ZeRO 阶段',
  sequence_parallel: '序列并行', context_parallel: '上下文并行', pipeline_schedule: '流水线调度',
  virtual_stages: '虚拟阶段', micro_batches: '微批数', compile: 'torch.compile', gradient_precision: '梯度精度',
  optimizer_state_precision: '优化器状态精度', 'lora.rank': 'LoRA 秩', 'lora.target_modules': 'LoRA 目标模块',
  'lora.precision': '适配器精度', 'lora.dora': 'DoRA', model_weights: '权重', kv_cache: 'KV 缓存',
  activation_memory: '激活', runtime_overhead: '运行时开销', gradient_memory: '梯度', optimizer_memory: '优化器状态',
  master_weights: '主权重', adapter_memory: '适配器', temporary_memory: '临时', inference_memory: '合计',
  training_memory: '合计', prefill: '预填充', decode: '解码', forward: '前向', backward: '反向', optimizer_step: '优化器步',
  total_title: '显存', per_gpu: '最满的一张卡', whole: '全部 {count} 张卡', phases_title: '各时刻', peak: '峰值',
  curve_title: '显存随上下文变化', grid_title: '上下文 × 并发', cards_title: '能放下的显卡', compare_title: '并排比较',
  share_title: '分享', part: '部分', size: '大小', formula: '计算方式', moment: '时刻', fits: '放得下', full: '放不下',
  free: '空闲', over: '超出', of: '/', split: '切分', needed: '需要', room_left: '每卡空闲', show_cards: '查找显卡',
  show_grid: '计算表格', add: '加入比较', remove: '移除', link: '复制链接', curl: '复制为 curl', python: '复制为 Python',
  svg: '图片（SVG）', png: '图片（PNG）', csv: '数据（CSV）', json: '数据（JSON）', copied: '已复制', waiting: '计算中…',
  failed: '服务没有应答：{why}', limit: '显卡上限', tokens: '词元', crosses: '最多放下 {count} 个词元',
  suggestions: '可以这样改', saves: '节省 {size}', use: '采用', range: '{low} 至 {high}', load: '采用', light: '浅色',
  dark: '深色', system: '跟随系统', bad_json: '不是 JSON：{why}', pick: '请先选择模型。', no_match: '没有匹配的模型。',
  parameters: '{count} 参数', max_batch: '此长度下最多并发：{count}', max_length: '此并发下最长上下文：{count}',
  reserved: '缓存预留 {size}，实际需要 {need}', report: '引擎启动时的输出', engine_options: '引擎选项', difference: '与第一项相比',
};

const LANGUAGES = { en: ENGLISH, zh: CHINESE };
let language = 'en';

export const current = () => language;

export function speak(name) {
  language = name in LANGUAGES ? name : 'en';
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
}

// The words for a key, with {names} filled in.
export function say(key, values = {}) {
  const words = LANGUAGES[language][key] ?? ENGLISH[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// A whole number as the reader writes it.
export const count = (n) => new Intl.NumberFormat(document.documentElement.lang).format(n);

const GIB = 2 ** 30;
let unit = 'gib';
export const units = () => unit;
export function measure(name) {
  unit = ['gib', 'gb', 'bytes'].includes(name) ? name : 'gib';
}

// Bytes in the chosen unit.
export function memory(bytes) {
  if (unit === 'bytes') return `${count(bytes)} B`;
  const value = bytes / (unit === 'gib' ? GIB : 1e9);
  const digits = Math.abs(value) >= 100 ? 1 : 2;
  const format = new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${format.format(value)} ${unit === 'gib' ? 'GiB' : 'GB'}`;
}

export function short(n) {
  for (const [size, letter] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M']]) if (n >= size) return `${+(n / size).toPrecision(3)}${letter}`;
  return count(n);
}
